"""Weights over many processes, and checkpoints that do not depend on how many.

Accelerate launches the processes and says how: one, copies of the model in each (DDP), or a part of it in each (FSDP2).
It shards on GPUs alone; torch's ``fully_shard``, which it calls, is called here instead, so that tests shard on CPUs.
Checkpoints are torch.distributed.checkpoint's: each process writes its part, and any number of them reads the whole.
"""

import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, broadcast_object_list, parse_flag_from_env
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

# A frozen weight is that of the folder it came from: it is in no checkpoint.
OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
# What torch warns of where a process is alone, which here is one of the ways to train.
ALONE = "torch.distributed is disabled, unavailable or uninitialized"


def is_sharded() -> bool:
    """Whether accelerate was told to give each process a part of the model."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def prepare(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The model to call in training: sharded in place where accelerate was told to, else as accelerate prepares it.

    Raises ``ValueError`` for the first version of FSDP.
    """
    if not is_sharded():
        return accelerator.prepare(model)
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise ValueError(f"expected fsdp_version 2, got {plugin.fsdp_version}: set it in accelerate's config file")
    options = {
        "mesh": init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "reshard_after_forward": plugin.reshard_after_forward,
        # Inputs stay as they are: timesteps and poses need more than the 8 bits of bf16.
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if accelerator.mixed_precision == "bf16" else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        ),
    }
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def gathered(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, out of sharded ones: every process has to call it, those that ``keep`` get them."""
    whole = {}
    for name, value in tensors.items():
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            whole[name] = value.cpu()
    return whole


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, average: EMAModel) -> dict:
    weights, moments = get_state_dict(model, optimizer, options=OPTIONS)
    return {
        "model": weights,
        "optimizer": moments,
        "average": dict(zip(trained(model), average.shadow_params, strict=True)),
    }


def save_state(model: nn.Module, optimizer: torch.optim.Optimizer, average: EMAModel, folder: Path | None) -> None:
    """Write weights, moments and average to the folder that the first process names; all of them call it.

    The folder must be one that all processes see. Raises ``OSError`` in all of them when one cannot write.
    """
    (place,) = broadcast_object_list([folder])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ALONE)
            checkpoint.save(_state(model, optimizer, average), checkpoint_id=place)
    except checkpoint.CheckpointException as error:
        reasons = [f"process {rank}: {reason}" for rank, (reason, _) in error.failures.items()]
        raise OSError("; ".join(reasons)) from error


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, average: EMAModel, folder: Path, step: int) -> None:
    """Read what any number of processes has written after ``step`` steps."""
    state = _state(model, optimizer, average)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ALONE)
        checkpoint.load(state, checkpoint_id=folder)
    parts = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
    set_state_dict(model, optimizer, **parts, options=OPTIONS)
    average.optimization_step = step
