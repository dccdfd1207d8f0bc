"""What all tests share: no network, calm threads, one small synthetic corpus, a Hub on this machine."""

import os

# Before any Hugging Face library is imported: nothing may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Idle OpenMP threads would otherwise spin and slow the other test processes down.
os.environ["OMP_WAIT_POLICY"] = "passive"

from pathlib import Path

import pytest
from hub_server import HubServer

from utils.data.demo import make_demo_corpus

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory) -> Path:
    """Four synthetic speakers, 120 clips: Actor_01 to Actor_04."""
    return make_demo_corpus(tmp_path_factory.mktemp("demo"), num_speakers=4)


@pytest.fixture
def hub():
    """A running HubServer with a token each for "me" that writes and that reads, and one for "somebody"."""
    with HubServer() as server:
        server.add_token("hf_write", "me")
        server.add_token("hf_read", "me", role="read")
        server.add_token("hf_somebody", "somebody")
        yield server
        assert not server.errors, server.errors[0]
