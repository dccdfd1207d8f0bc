"""Shared by all tests: no network, passive threads, a small synthetic corpus, a local server for the Hub."""

import os

# Set before any Hugging Face library is imported: no test may use the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# With the active policy, idle OpenMP threads use the CPU and slow down the other test processes.
os.environ["OMP_WAIT_POLICY"] = "passive"

from pathlib import Path

import pytest
from hub_server import HubServer
from scripts import FinishedRuns

from utils.data.demo import make_demo_corpus

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory) -> Path:
    """A corpus of 120 clips by four synthetic speakers, in the folders Actor_01 to Actor_04."""
    return make_demo_corpus(tmp_path_factory.mktemp("demo"), num_speakers=4)


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory) -> FinishedRuns:
    """Finished runs of the scripts, shared by all test processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "finished_runs").mkdir(exist_ok=True)
    return FinishedRuns(folder / "finished_runs")


@pytest.fixture
def hub():
    """A running HubServer with a write token and a read token of "me" and a write token of "somebody"."""
    with HubServer() as server:
        server.add_token("hf_write", "me")
        server.add_token("hf_read", "me", role="read")
        server.add_token("hf_somebody", "somebody")
        yield server
        assert not server.errors, server.errors[0]
