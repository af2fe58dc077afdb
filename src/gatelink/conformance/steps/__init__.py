"""The steps of the kit, a group in a file. The order of these imports is the order of a run."""

# isort: off
from gatelink.conformance.steps import login as login
from gatelink.conformance.steps import messages as messages
from gatelink.conformance.steps import acks as acks
from gatelink.conformance.steps import breaks as breaks
from gatelink.conformance.steps import resume as resume
from gatelink.conformance.steps import goaway as goaway
from gatelink.conformance.steps import ends as ends
from gatelink.conformance.steps import heartbeats as heartbeats
from gatelink.conformance.steps import requests as requests
from gatelink.conformance.steps import renewal as renewal
from gatelink.conformance.steps import bad_bytes as bad_bytes
from gatelink.conformance.steps import clocks as clocks
from gatelink.conformance.steps import crowd as crowd
# isort: on
