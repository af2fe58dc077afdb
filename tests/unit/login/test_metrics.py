"""Each metric of a login service shows the counter that it names."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

from gatelink.login.service import LoginMetrics
from gatelink.ops.lag import LoopLag


def new_service() -> Any:
    passwords = SimpleNamespace(waiting=4, refused=5)
    return SimpleNamespace(
        lag=LoopLag(),
        admission=SimpleNamespace(count=1, refused=Counter({"address-full": 2})),
        limited_app=SimpleNamespace(active=3, responses=Counter({200: 6})),
        engine=SimpleNamespace(is_available=True, skew=0.25, stats=SimpleNamespace(not_authentic={"token": 7})),
        logins=SimpleNamespace(
            accounts=SimpleNamespace(calls=8, passwords=passwords),
            outcomes=Counter({("guest", "refused"): 9}),
            delays=Counter({"user": 10}),
        ),
    )


def test_every_counter_of_a_login_service_is_shown_under_its_own_name() -> None:
    found = {
        (metric.name.removeprefix("gatelink_login_"), *sorted(sample.labels.values())): sample.value
        for metric in LoginMetrics(new_service()).collect()
        for sample in metric.samples
        if metric.name.startswith("gatelink_login_")
    }
    assert found == {
        ("connections",): 1,
        ("refusals", "address-full"): 2,
        ("requests_active",): 3,
        ("passwords_waiting",): 4,
        ("passwords_refused",): 5,
        ("responses", "200"): 6,
        ("engine_not_authentic", "token"): 7,
        ("database_calls",): 8,
        ("attempts", "guest", "refused"): 9,
        ("delays", "user"): 10,
        ("engine_available",): 1,
        ("engine_clock_skew_seconds",): 0.25,
    }
