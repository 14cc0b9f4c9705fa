"""What libraries say about packages nobody asked for is not said; the rest is."""

from __future__ import annotations

import logging

import pytest

import tunesmith  # noqa: F401

HINT = "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure you already ..."


def test_only_the_hint_of_bitsandbytes_is_silenced(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with caplog.at_level(logging.WARNING):
        logger.warning(HINT, "No module named 'kernels'")
        logger.warning("the weights were cast to float16")
    assert caplog.messages == ["the weights were cast to float16"]
