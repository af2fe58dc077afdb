"""The arena's page, as it is shipped."""

from examples.arena.processes import ARENA, ROOT
from gatelink.settings import load


def test_the_page_may_log_in_and_connect_when_the_cluster_runs_for_development() -> None:
    settings = load(ARENA / "cluster.toml", dev=True)
    assert settings.page is not None and settings.login is not None and settings.gateway is not None
    assert settings.page.folder.resolve() == ARENA / "web"
    assert "guest" in settings.login.methods
    (web,) = (listen for listen in settings.gateway.listen if listen.is_web)
    for origins in (settings.login.origins, web.origins):
        assert origins == ("http://127.0.0.1:8000", "http://localhost:8000")


def test_the_shipped_script_has_no_path_of_the_machine_that_built_it() -> None:
    script = (ARENA / "web" / "arena.js").read_text()
    assert "WebSocket" in script and str(ROOT) not in script and "/home/" not in script
