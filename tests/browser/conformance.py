"""The conformance kit passes the SDK in Chromium, in a short run: `make test-browser`."""

import sys

from tests.conformance.runs import assert_all_passed, conform


async def test_the_sdk_in_a_page_keeps_every_promise_of_a_short_run() -> None:
    assert_all_passed(await conform([sys.executable, "-m", "tests.browser.driver"], short=True, transport="ws"))
