"""What the context may and may not depend on, and what the order, the indices and the path do."""

import inspect
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.model.drawn import randn
from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.weights import WEIGHTS

CLOSE = {"atol": 1e-5, "rtol": 0}
BOTH = pytest.mark.parametrize("context_attention", ["one_way", "two_way"])


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def inputs(make_path) -> dict[str, Tensor]:
    """Two contexts of five latents with two targets of three each."""
    return {
        "target_latents": randn(4, 192, 3, 2, 3, seed=0),
        "timestep": torch.tensor([300.0, 300, 800, 950]),
        "target_time_index": torch.arange(60, 63).expand(4, -1),
        "context_latents": randn(2, 192, 5, 2, 3, seed=1),
        "context_time_index": torch.tensor([[3, 4, 17, 20, 50], [0, 9, 18, 27, 36]]),
        "camera_path": relative_to_start(make_path(4, 9)),
    }


def rows(inputs: dict[str, Tensor], targets: slice, contexts: slice) -> dict[str, Tensor]:
    return {key: value[contexts if key.startswith("context") else targets] for key, value in inputs.items()}


def own_keys(model: ContextVideoTransformer, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Keys of the first five latents' tokens that the blocks compute in a forward pass, in order of the calls."""
    keys = []
    hooks = [block.register_forward_hook(lambda _, __, out: keys.append(out[1][0])) for block in model.blocks]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return [key[:, :, :30] for key in keys[: len(model.blocks)]]


def test_a_cached_context_gives_what_an_uncached_one_gives(make_transformer, inputs):
    model = make_transformer()
    expected = model(**inputs)
    cache = model.encode_context(inputs.pop("context_latents"), inputs.pop("context_time_index"))
    torch.testing.assert_close(model(**inputs, context_cache=cache), expected, **CLOSE)
    assert (model(**inputs) - expected).abs().max() > 1e-2  # the context is used


def test_one_way_keys_are_a_function_of_the_context_alone(make_transformer, inputs, make_path):
    """And two-way ones are not, from the second block on."""
    changes = {
        "target_latents": randn(4, 192, 3, 2, 3, seed=7),
        "timestep": inputs["timestep"] / 2,
        "target_time_index": inputs["target_time_index"] + 9,
        "camera_path": relative_to_start(make_path(4, 9, seed=7)),
    }
    one_way, two_way = make_transformer(), make_transformer(context_attention="two_way")
    first, joint = own_keys(one_way, inputs), own_keys(two_way, inputs)
    for name, value in changes.items():
        changed = {**inputs, name: value}
        assert all(torch.equal(a, b) for a, b in zip(first, own_keys(one_way, changed), strict=True)), name
        again = own_keys(two_way, changed)
        assert torch.equal(again[0], joint[0])
        assert (again[1] - joint[1]).abs().max() > 1e-4, name


def test_two_way_differs_from_one_way(make_transformer, inputs):
    one_way, two_way = make_transformer(), make_transformer(context_attention="two_way")
    assert all(torch.equal(a, b) for a, b in zip(one_way.parameters(), two_way.parameters(), strict=True))
    assert (one_way(**inputs) - two_way(**inputs)).abs().max() > 1e-3


@BOTH
def test_one_context_serves_its_targets_as_separate_calls_would(make_transformer, inputs, context_attention):
    model = make_transformer(context_attention=context_attention)
    expected = [model(**rows(inputs, slice(i, i + 1), slice(i // 2, i // 2 + 1))) for i in range(4)]
    torch.testing.assert_close(model(**inputs), torch.cat(expected), **CLOSE)


@BOTH
def test_the_order_of_context_latents_says_nothing_their_indices_do(make_transformer, inputs, context_attention):
    model = make_transformer(context_attention=context_attention)
    expected = model(**inputs)
    order = torch.tensor([3, 0, 4, 2, 1])
    latents = inputs["context_latents"][:, :, order]
    both = {**inputs, "context_latents": latents, "context_time_index": inputs["context_time_index"][:, order]}
    torch.testing.assert_close(model(**both), expected, **CLOSE)
    assert (model(**{**inputs, "context_latents": latents}) - expected).abs().max() > 1e-3


@BOTH
def test_only_differences_of_indices_matter(make_transformer, inputs, context_attention):
    model = make_transformer(context_attention=context_attention)
    expected = model(**inputs)
    names = ("target_time_index", "context_time_index")
    shifted = {**inputs, **{name: inputs[name] + 900 for name in names}}
    torch.testing.assert_close(model(**shifted), expected, **CLOSE)
    moved = {**inputs, names[0]: inputs[names[0]] + 5}
    assert (model(**moved) - expected).abs().max() > 1e-3


@BOTH
def test_an_index_out_of_range_is_refused(make_transformer, inputs, context_attention):
    model = make_transformer(context_attention=context_attention)
    with pytest.raises(ValueError, match=r"^expected time indices in 0\.\.1023, got .*1024: shorten the scan"):
        model(**{**inputs, "target_time_index": inputs["target_time_index"] + 962})
    with pytest.raises(ValueError, match=r"^expected time indices in 0\.\.1023, got -1\.\."):
        model(**{**inputs, "context_time_index": inputs["context_time_index"] - 1})


@BOTH
@pytest.mark.parametrize("pose_encoding", ["ray_map", "c2w_12"])
def test_a_masked_path_is_no_path(make_transformer, inputs, context_attention, pose_encoding):
    model = make_transformer(context_attention=context_attention, pose_encoding=pose_encoding)
    with_path, masked = model(**inputs), model(**inputs, camera_mask=torch.tensor([True, False, True, False]))
    without = model(**{**inputs, "camera_path": None})
    torch.testing.assert_close(masked[::2], with_path[::2], **CLOSE)
    torch.testing.assert_close(masked[1::2], without[1::2], **CLOSE)
    assert (with_path - without).flatten(1).abs().amax(dim=1).min() > 1e-3


@BOTH
def test_clean_and_noisy_contexts_differ_by_their_timestep(make_transformer, inputs, context_attention):
    model = make_transformer(context_attention=context_attention)
    expected = model(**inputs)
    assert torch.equal(model(**inputs, context_timestep=torch.zeros(2)), expected)
    noisy = model(**inputs, context_timestep=torch.tensor([0.0, 1000.0]))
    torch.testing.assert_close(noisy[:2], expected[:2], **CLOSE)
    assert (noisy - expected)[2:].abs().max() > 1e-3


def test_the_start_latent_carries_timestep_zero(make_transformer, inputs):
    """With every latent clean, the timestep is heard by nobody."""
    model = make_transformer()
    outputs = [model(**{**inputs, "timestep": torch.full((4,), t)}, clean_latents=3) for t in (0.0, 900.0)]
    assert torch.equal(*outputs)
    roles = model(**{**inputs, "timestep": torch.zeros(4)}, clean_latents=1)
    assert (roles - outputs[0]).abs().max() > 1e-3  # start and moving latents differ by their role, too


def test_the_default_is_the_papers_model_and_options_are_checked(make_transformer):
    plain = ContextVideoTransformer((1, 1, 1), 2, 12, 192, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=1)
    assert plain.config.prediction_type == "velocity" and plain.config.context_attention == "two_way"
    assert plain.pose_adapter is None and plain.position_embedding is None
    assert (plain.role_embedding == 0).all()
    with pytest.raises(ValueError, match="^expected prediction_type to be one of .*, got 'noise': choose one of them$"):
        make_transformer(prediction_type="noise")


def test_conditions_that_a_model_has_no_part_for_are_refused(make_transformer, inputs):
    model = make_transformer(context_attention="two_way", pose_encoding=None)
    path = inputs.pop("camera_path")
    with pytest.raises(ValueError, match="^expected no camera_path for a model without poses"):
        model(**inputs, camera_path=path)
    with pytest.raises(ValueError, match="^expected no encoder_hidden_states for a model without text"):
        model(**inputs, encoder_hidden_states=randn(4, 5, 16, seed=2))
    with pytest.raises(ValueError, match="^expected a one_way model, or one with a localizer, got neither"):
        model.encode_context(inputs["context_latents"], inputs["context_time_index"])
    with pytest.raises(ValueError, match="^expected no context_cache for a two_way model"):
        model(**inputs, context_cache=[])


def test_no_argument_could_hold_context_poses_or_depth():
    """Claim C13: the model is given video of the context and nothing else."""
    for function in (ContextVideoTransformer.forward, ContextVideoTransformer.encode_context):
        names = set(inspect.signature(function).parameters) - {
            "self",
            "return_findings",
            "only_findings",
            "camera_path",
            "camera_mask",
        }
        assert not [name for name in names if re.search("depth|pose|c2w|point|camera", name)]
        context = {"context_latents", "context_time_index", "context_timestep", "context_cache"}
        assert {name for name in names if "context" in name} <= context


def test_saved_and_loaded_strictly_from_safetensors(make_transformer, inputs, tmp_path):
    model = make_transformer()
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", WEIGHTS]
    again = ContextVideoTransformer.from_pretrained(tmp_path)
    assert not again.training
    assert torch.equal(again(**inputs), model(**inputs))
    weights = load_file(tmp_path / WEIGHTS)
    torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    weights["another"] = weights.pop("proj_out.bias")
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"missing \['proj_out.bias'\] and unexpected \['another'\]"):
        ContextVideoTransformer.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(OSError, match="no file named diffusion_pytorch_model.safetensors"):
        ContextVideoTransformer.from_pretrained(tmp_path)


def test_every_parameter_is_trained(make_transformer, inputs):
    """None is left without a gradient by a forward pass with context, start latent and path."""
    for context_attention in ("one_way", "two_way"):
        model: nn.Module = make_transformer(context_attention=context_attention)
        with torch.enable_grad():
            model(**inputs).square().mean().backward()
        still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == []


@BOTH
def test_gradient_checkpointing_changes_nothing_but_what_is_kept(make_transformer, inputs, context_attention):
    results = []
    for checkpointing in (False, True):
        model = make_transformer(context_attention=context_attention, text_dim=6)
        if checkpointing:
            model.enable_gradient_checkpointing()
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x)
        with torch.enable_grad(), hooks:
            output = model(**inputs, encoder_hidden_states=randn(4, 5, 6))
            size = sum(kept)
            output.square().mean().backward()
        results.append((output, {name: p.grad for name, p in model.named_parameters()}, size))
    (output, gradients, size), (again, others, less) = results
    torch.testing.assert_close(again, output, **CLOSE)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, **CLOSE)
    assert less < size / 3
