"""The files for accelerate and Slurm: every key and option is one that accelerate knows, and says what is meant."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

from v4s_lib.training.finetune import main
from v4s_lib.training.full import FULL

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "v4s_lib" / "training" / "configs"
KINDS = {"one_gpu": DistributedType.NO, "ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP}


def launched(arguments: list[str]):
    """What accelerate makes of the arguments of its launch command; it refuses unknown keys of a config file."""
    return _validate_launch_command(launch_command_parser().parse_args(arguments))


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_knows_every_key(name):
    file = CONFIGS / f"{name}.yaml"
    args, config, _ = launched(["--config_file", str(file), "script.py"])
    content = yaml.safe_load(file.read_text())
    assert config.distributed_type == KINDS[name]
    assert args.mixed_precision == FULL.mixed_precision == "bf16"
    assert FULL.batch % content["num_processes"] == 0 and args.num_processes == content["num_processes"]
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert set(content.get("fsdp_config", {})) <= known.keys()


def test_fsdp2_builds_a_plugin_of_the_second_version(monkeypatch):
    args, *_ = launched(["--config_file", str(CONFIGS / "fsdp2.yaml"), "--main_process_port", "0", "script.py"])
    for key, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert os.environ["ACCELERATE_USE_FSDP"] == "true" and plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True and plugin.cpu_ram_efficient_loading is False


def test_slurm_launches_every_node_with_options_that_are_known(tmp_path, capsys):
    """The script itself, with stand-ins for the commands that only a cluster has."""
    script = CONFIGS / "slurm_fsdp2.sh"
    stand_ins = {
        "scontrol": "echo node1; echo node2",
        "srun": '[ "$1" = bash ] && SLURM_NODEID=1 "$@"',
        "accelerate": f'[ "$1" = launch ] && shift && printf "%s\\n" "$@" > {tmp_path}/launched',
    }
    for name, line in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    nodes = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    asked = [str(tmp_path / "no cache"), "weights", str(tmp_path / "out"), "--seed", "3"]
    subprocess.run(["bash", str(script), *asked], cwd=ROOT, env=os.environ | nodes, check=True)
    args, *_ = launched((tmp_path / "launched").read_text().splitlines())
    assert args.use_fsdp and args.module and args.training_script == "v4s_lib.training.finetune"
    assert (args.num_machines, args.num_processes, args.machine_rank) == (2, 16, 1)
    assert args.main_process_ip == "node1" and FULL.batch % args.num_processes == 0
    assert main(args.training_script_args) == 2  # it takes the options, and finds no cache
    expected = f"expected a latent cache with a whole index.json in {asked[0]}, got none"
    assert capsys.readouterr().err.startswith(expected)
    assert not (tmp_path / "out").exists()
