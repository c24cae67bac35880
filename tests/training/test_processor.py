"""What a processor is quick at."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from v4s_lib.training.processor import BF16_INSTRUCTIONS, fast_bf16, make_accelerator, precision


def test_bf16_only_where_it_is_not_emulated(monkeypatch):
    """Whatever this processor has, the other case is tried as well."""
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {BF16_INSTRUCTIONS[0]: has}, raising=False)
        assert fast_bf16(torch.device("cpu")) == has
        assert precision("bf16") == ("bf16" if has else "no")
        assert make_accelerator(precision("bf16")).mixed_precision == precision("bf16")
        assert precision("no") == "no"
    AcceleratorState._reset_state(reset_partial_state=True)


def test_one_process_trains_in_two_precisions():
    """As a notebook does that trains preset smoke and then small; accelerate's own class refuses."""
    for wanted in ("no", "bf16", "bf16", "no"):
        assert make_accelerator(wanted).mixed_precision == wanted
    with pytest.raises(ValueError, match="already been initialized"):
        Accelerator(mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
