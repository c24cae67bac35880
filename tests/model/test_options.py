"""The options of claims C1, C2, C4 and C5: exactly neutral at their off values, and each does what it says."""

import pytest
import torch
from torch import Tensor

from v4s_lib.data.instructions import NAVIGATION, grounding_instruction
from v4s_lib.model.context import ContextPool
from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.text import tokenize, vocabulary
from v4s_lib.model.transformer import NEW_KEYS, ContextVideoTransformer

WINDOW = (2, 2, 1)
READS = {"text_dim": 8, "vocabulary": vocabulary()}
SENTENCES = [NAVIGATION, grounding_instruction("a red kettle"), "", grounding_instruction("a blue lamp")]


def like(make_transformer, plain: ContextVideoTransformer, **changes: object) -> ContextVideoTransformer:
    """A model with options and the weights of one without; what only the options have stays as it is drawn."""
    model = make_transformer(**changes)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(key.startswith(("context_pool.", "task_adapter.")) for key in missing)
    return model


def outputs(model: ContextVideoTransformer, latents: dict[str, Tensor], **changes: object) -> Tensor:
    with torch.no_grad():
        return model(**latents | changes)


def moved(latents: dict[str, Tensor], latent: int) -> dict[str, Tensor]:
    """The same inputs with another picture in one context latent."""
    context = latents["context_latents"].clone()
    context[:, :, latent] += 1.0
    return latents | {"context_latents": context}


def test_a_default_model_has_none_of_the_options(make_transformer):
    keys = make_transformer(**READS).state_dict()
    assert not [key for key in keys if key.startswith(("context_pool.", "task_adapter."))]
    assert {"context_pool.", "task_adapter."} <= set(NEW_KEYS)


def test_a_window_is_pooled_to_its_mean_at_first_and_the_last_one_is_short():
    """Five latents of 2x3 tokens: windows of two latents and both rows; the third holds one latent alone."""
    tokens = torch.arange(30.0).view(1, 1, 30, 1).expand(2, 2, 30, 4)
    key, value = ContextPool(WINDOW, 2, 4)((tokens, tokens + 100), (5, 2, 3))
    expected = [4.5, 5.5, 6.5, 16.5, 17.5, 18.5, 25.5, 26.5, 27.5]  # of tokens 0, 3, 6, 9; 1, 4, 7, 10; and so on
    assert key.shape == value.shape == (2, 2, 9, 4)
    assert key[0, 0, :, 0].tolist() == expected and torch.equal(value, key + 100)


def test_a_learnt_query_chooses_within_a_window():
    pool = ContextPool((2, 1, 1), 1, 1)
    with torch.no_grad():
        pool.query.fill_(100.0)
    tokens = torch.tensor([0.0, 5.0, 3.0, 1.0]).view(1, 1, 4, 1)  # two latents of two tokens
    key, value = pool((tokens, -tokens), (2, 1, 2))
    assert key.flatten().tolist() == [3, 5] and value.flatten().tolist() == [-3, -5]


def test_compression_makes_the_cache_smaller_and_cached_equals_uncached(make_transformer, latents):
    plain = make_transformer()
    packed = like(make_transformer, plain, context_compression=WINDOW)
    context = (latents.pop("context_latents"), latents.pop("context_time_index"))
    caches = [model.encode_context(*context) for model in (plain, packed)]
    assert [cache.blocks[1][0].shape[2] for cache in caches] == [5 * 6, 3 * 3]
    cached = outputs(packed, latents, context_cache=caches[1])
    uncached = outputs(packed, latents, context_latents=context[0], context_time_index=context[1])
    torch.testing.assert_close(cached, uncached, atol=1e-5, rtol=0)
    assert not torch.allclose(cached, outputs(plain, latents, context_cache=caches[0]), atol=1e-3)


def test_windows_of_one_token_change_nothing(make_transformer, latents):
    plain = make_transformer()
    packed = like(make_transformer, plain, context_compression=(1, 1, 1))
    torch.testing.assert_close(outputs(packed, latents), outputs(plain, latents), atol=1e-6, rtol=0)


def test_a_compressed_model_with_all_parts_and_its_gradients(make_transformer, inputs):
    parts = {"position_size": (4, 6), "localize_after": 1, "ray_rotary": True, "see_places": 4}
    model = make_transformer(**parts, context_compression=WINDOW)
    assert model.encode_context(inputs["context_latents"], inputs["context_time_index"]).blocks[1][0].shape[2] == 36
    model(**inputs).square().mean().backward()
    assert all(pool.query.grad.abs().max() > 0 for pool in model.context_pool)


def test_alone_a_latent_tells_only_its_own_keys(make_transformer, latents):
    plain = make_transformer()
    alone = like(make_transformer, plain, spatial_only_context=True)
    changed = []
    for model in (plain, alone):
        caches = [model.encode_context(i["context_latents"], i["context_time_index"]).blocks[1]
                  for i in (latents, moved(latents, 2))]  # fmt: skip
        difference = (caches[0][0] - caches[1][0]).abs().unflatten(2, (5, 6)).amax(dim=(0, 1, 3, 4))
        changed.append((difference > 1e-6).tolist())
    assert changed == [[True] * 5, [False, False, True, False, False]]
    assert not torch.equal(outputs(alone, latents), outputs(alone, moved(latents, 2)))  # targets attend to all of them


def test_a_context_of_one_latent_is_alone_anyway(make_transformer, latents):
    plain = make_transformer()
    alone = like(make_transformer, plain, spatial_only_context=True)
    one = {name: latents[name][:, :, :1] if name == "context_latents" else latents[name][:, :1]
           for name in ("context_latents", "context_time_index")}  # fmt: skip
    torch.testing.assert_close(outputs(alone, latents | one), outputs(plain, latents | one), atol=1e-6, rtol=0)


def test_all_blocks_are_the_default(make_transformer, latents, make_path):
    plain = make_transformer()
    all_blocks = like(make_transformer, plain, pose_blocks=[0, 1], context_blocks=[0, 1])
    path = {"camera_path": relative_to_start(make_path(4, 9))}
    assert torch.equal(outputs(all_blocks, latents, **path), outputs(plain, latents, **path))


def test_path_and_context_reach_their_own_blocks(make_transformer, latents, make_path):
    first, second = ({"camera_path": relative_to_start(make_path(4, 9, seed))} for seed in (0, 1))
    blind = make_transformer(context_blocks=[])
    assert torch.equal(outputs(blind, latents, **first), outputs(blind, moved(latents, 2), **first))
    assert not torch.equal(outputs(blind, latents, **first), outputs(blind, latents, **second))
    deaf = make_transformer(pose_blocks=[])
    assert torch.equal(outputs(deaf, latents, **first), outputs(deaf, latents, **second))
    late = make_transformer(pose_blocks=[0], context_blocks=[1])
    assert not torch.equal(outputs(late, latents, **first), outputs(late, moved(latents, 2), **first))
    blocks = late.encode_context(latents["context_latents"], latents["context_time_index"]).blocks
    assert blocks[0] is None and blocks[1] is not None


def test_adapters_are_neutral_at_first_and_chosen_by_the_words(make_transformer, latents):
    plain = make_transformer(**READS)
    adapted = like(make_transformer, plain, **READS, task_adapters=3)
    words = {"words": tokenize(SENTENCES, READS["vocabulary"])}
    with torch.no_grad():
        for adapter in adapted.task_adapter:
            adapter.up.zero_()
    assert torch.equal(outputs(adapted, latents, **words), outputs(plain, latents, **words))
    with torch.no_grad():
        adapted.task_adapter[1].up[1] = 0.5
    difference = (outputs(adapted, latents, **words) - outputs(plain, latents, **words)).abs().flatten(1).amax(dim=1)
    assert (difference > 0).tolist() == [False, True, False, True]
    assert torch.equal(outputs(adapted, latents), outputs(plain, latents))  # no words at all


def test_adapters_change_targets_alone(make_transformer, latents):
    """In a joint sequence, too: the context's tokens enter a block as they would without adapters."""
    plain = make_transformer(**READS, context_attention="two_way")
    adapted = like(make_transformer, plain, **READS, context_attention="two_way", task_adapters=3)
    entered = []
    for model in (plain, adapted):
        model.blocks[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        outputs(model, latents, words=tokenize(SENTENCES, READS["vocabulary"]))
    targets = latents["target_latents"][0, 0].numel()  # tokens
    assert torch.equal(*(states[:, :-targets] for states in entered)) and entered[0].shape[1] > targets
    assert (entered[0][:, -targets:] - entered[1][:, -targets:]).abs().amax(dim=(1, 2)).min() > 1e-3


def test_options_are_saved_and_loaded_strictly(make_transformer, latents, tmp_path):
    options = {"context_compression": WINDOW, "spatial_only_context": True, "task_adapters": 2, "context_blocks": [1]}
    model = make_transformer(**READS, **options)
    model.save_pretrained(tmp_path)
    again = ContextVideoTransformer.from_pretrained(tmp_path)
    assert torch.equal(outputs(again, latents), outputs(model, latents))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_compression": WINDOW, "context_attention": "two_way"}, "one_way context_attention for context_comp"),
        ({"spatial_only_context": True, "context_attention": "two_way"}, "one_way context_attention for spatial_only"),
        ({"context_blocks": [1], "context_attention": "two_way"}, "one_way context_attention for context_blocks"),
        ({"pose_blocks": [2]}, "pose_blocks in 0..1, got 2"),
        ({"context_blocks": [-1]}, "context_blocks in 0..1, got -1"),
        ({"task_adapters": 4}, "a vocabulary for task_adapters, got none"),
    ],
)
def test_options_that_do_not_fit_are_refused(make_transformer, changes, message):
    with pytest.raises(ValueError, match=f"^expected {message}"):
        make_transformer(**changes)
