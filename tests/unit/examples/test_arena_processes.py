"""What the arena's demo reads from its cluster's log."""

from pathlib import Path

from examples.arena.processes import links_in


def test_an_end_of_a_link_counts_and_a_failed_attempt_does_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "room-1    | [debug    ] not linked                     [gatelink.links] name='room' server=22002\n"
        "room-1    | [debug    ] linked                         [gatelink.links] name='room' server=22002\n"
        "room-1    | \x1b[1mlinked\x1b[0m                         [gatelink.links] name='lobby' server=21001\n"
    )
    assert links_in(log) == 2
