"""A video diffusion transformer that knows a scene from the latents of an unposed context video.

References: Video4Spatial (arXiv 2512.03040), Wan (arXiv 2503.20314). The parameters carry the names of diffusers'
``WanTransformer3DModel``; parts that Wan has not are zero-initialised and listed in ``NEW_KEYS``.
Axis letters: B batch, M targets a context, C channels, T latent frames, H, W latent pixels, N tokens, D width.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding
from torch import Tensor, nn

from v4s_lib.model.blocks import ContextVideoBlock, KeyValue, TimeIndexRotaryEmbed
from v4s_lib.model.pose import POSE_FEATURES, c2w_12, ray_map

NEW_KEYS = ("pose_adapter.", "role_embedding", "position_embedding")  # what a stock Wan checkpoint does not have
CONTEXT, START, MOVING = 0, 1, 2  # rows of the role embedding


class ContextVideoTransformer(ModelMixin, ConfigMixin):
    """Denoises target latents given context latents, a start latent, and a text or a camera path.

    Args:
        patch_size: latents, rows and columns that one token covers.
        num_attention_heads, attention_head_dim, num_layers, ffn_dim: sizes of the stack; D = heads * head_dim.
        in_channels, out_channels: channels of a latent.
        text_dim: width of the text embeddings; None builds a model without text.
        freq_dim: width of the timestep's sinusoids.
        cross_attn_norm, qk_norm, eps: as Wan.
        rope_max_seq_len, rope_theta: range of the time index, and base of the rotary frequencies.
        context_attention: "two_way" (the paper: one joint sequence) or "one_way" (context attends to context alone).
        pose_encoding: "ray_map", "c2w_12" or None for a model without camera path.
        horizontal_fov: of the camera, degrees; used by the ray map.
        position_size: rows and columns of a learned embedding of a token's place in its frame, None for none.
        prediction_type: what the output is: "sample" (clean latents) or "velocity".
    """

    _no_split_modules = ["ContextVideoBlock"]
    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        in_channels: int = 48,
        out_channels: int | None = None,
        text_dim: int | None = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 14336,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
        rope_theta: float = 10000.0,
        context_attention: str = "two_way",
        pose_encoding: str | None = None,
        horizontal_fov: float = 90.0,
        position_size: tuple[int, int] | None = None,
        prediction_type: str = "velocity",
    ) -> None:
        super().__init__()
        _check_option("context_attention", context_attention, ("two_way", "one_way"))
        _check_option("pose_encoding", pose_encoding, (None, *POSE_FEATURES))
        _check_option("prediction_type", prediction_type, ("sample", "velocity"))
        dim = num_attention_heads * attention_head_dim
        out_channels = out_channels or in_channels
        self.rope = TimeIndexRotaryEmbed(attention_head_dim, tuple(patch_size), rope_max_seq_len, rope_theta)
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=tuple(patch_size), stride=tuple(patch_size))
        self.condition_embedder = WanTimeTextImageEmbedding(dim, freq_dim, dim * 6, text_dim or 1)
        if text_dim is None:
            self.condition_embedder.text_embedder = None
        self.blocks = nn.ModuleList(
            ContextVideoBlock(dim, ffn_dim, num_attention_heads, cross_attn_norm, eps, text_dim is not None)
            for _ in range(num_layers)
        )
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * patch_size[0] * patch_size[1] * patch_size[2])
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        # Parts that Wan has not start at zero: a stock checkpoint with them added gives the stock output.
        self.role_embedding = nn.Parameter(torch.zeros(3, dim))
        self.position_embedding = None
        if position_size is not None:
            self.position_embedding = nn.Parameter(torch.zeros(position_size[0] * position_size[1], dim))
        self.pose_adapter = None
        if pose_encoding is not None:
            self.pose_adapter = nn.ModuleList(nn.Linear(POSE_FEATURES[pose_encoding], dim) for _ in range(num_layers))
            for layer in self.pose_adapter:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def encode_context(self, context_latents: Tensor, time_index: Tensor, timestep: Tensor | None = None) -> list[KeyValue]:
        """Keys and values of every block for a context that attends to itself alone (``one_way``).

        Args:
            context_latents: (B, C, T, H, W).
            time_index: (B, T) index of each latent in its scan.
            timestep: (B,) in 0..1000; None is 0, a clean context.

        Returns:
            one (key, value) a block, each (B, heads, N, head_dim). They depend on nothing else: compute them once.
        """
        states, grid = self._embed(context_latents, CONTEXT)
        if timestep is None:
            timestep = torch.zeros(len(states), device=states.device)
        _, modulation = self._time(timestep[:, None].expand(-1, grid[0]), states)
        rotary = self.rope(time_index, *grid[1:])
        cache = []
        for block in self.blocks:
            states, own = block(states, modulation, rotary)
            cache.append(own)
        return cache

    def forward(
        self,
        target_latents: Tensor,
        timestep: Tensor,
        target_time_index: Tensor,
        context_latents: Tensor | None = None,
        context_time_index: Tensor | None = None,
        context_timestep: Tensor | None = None,
        context_cache: list[KeyValue] | None = None,
        encoder_hidden_states: Tensor | None = None,
        camera_path: Tensor | None = None,
        clean_latents: int = 1,
    ) -> Tensor:
        """Predict the clean target latents or their velocity, see ``prediction_type``.

        Args:
            target_latents: (B*M, C, T, H, W); the first ``clean_latents`` are given clean, the others are noisy.
            timestep: (B*M,) in 0..1000 of the noisy latents; the clean ones carry 0.
            target_time_index: (B*M, T).
            context_latents: (B, C, T', H, W), one context for M targets, or None.
            context_time_index: (B, T').
            context_timestep: (B,) None is 0; the unconditional branch passes the noise's own.
            context_cache: what ``encode_context`` returned, instead of ``context_latents``.
            encoder_hidden_states: (B*M, L, text_dim), or None for no text.
            camera_path: (B*M, T, 4, 4, 4) c2w relative to the start frame, or None for no path.
            clean_latents: how many leading target latents are given.

        Returns:
            (B*M, C, T, H, W).
        """
        states, grid = self._embed(target_latents, MOVING, clean_latents)
        times = timestep[:, None].repeat(1, grid[0])
        times[:, :clean_latents] = 0
        index = target_time_index
        joint = self.config.context_attention == "two_way" and context_latents is not None
        if joint:
            context, context_grid = self._embed(context_latents, CONTEXT)
            repeats = len(states) // len(context)
            if context_timestep is None:
                context_timestep = torch.zeros(len(context), device=states.device)
            context_times = context_timestep[:, None].expand(-1, context_grid[0])
            parts = [(context, states), (context_times, times), (context_time_index, index)]
            states, times, index = (torch.cat([a.repeat_interleave(repeats, 0), b], dim=1) for a, b in parts)
        elif context_latents is not None:
            context_cache = self.encode_context(context_latents, context_time_index, context_timestep)
        embedded, modulation = self._time(times, states)
        text = None if encoder_hidden_states is None else self.condition_embedder.text_embedder(encoder_hidden_states)
        rotary = self.rope(index, *grid[1:])
        pose = None if camera_path is None else self._pose(camera_path, grid)
        tokens = grid[0] * grid[1] * grid[2]
        for i, block in enumerate(self.blocks):
            if pose is not None:
                change = self.pose_adapter[i](pose).type_as(states)
                states = torch.cat([states[:, :-tokens], states[:, -tokens:] + change], dim=1) if joint else states + change
            states, _ = block(states, modulation, rotary, text, _repeat(context_cache, i, len(states)))
        return self._unpatchify(states[:, -tokens:], embedded[:, -grid[0] :], grid)

    def _embed(self, latents: Tensor, role: int, clean_latents: int = 0) -> tuple[Tensor, tuple[int, int, int]]:
        states = self.patch_embedding(latents)
        grid = tuple(states.shape[2:])
        states = states.flatten(3).permute(0, 2, 3, 1)  # B T S D
        roles = self.role_embedding[[START] * clean_latents + [role] * (grid[0] - clean_latents)]
        states = states + roles[:, None].type_as(states)
        if self.position_embedding is not None:
            states = states + self.position_embedding.type_as(states)
        return states.flatten(1, 2), grid

    def _time(self, timestep: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (B, T, D) of the latents' timesteps (B, T) and their modulation (B, T, 6, D)."""
        embedder = self.condition_embedder
        waves = embedder.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        embedded = embedder.time_embedder(waves.to(embedder.time_embedder.linear_1.weight.dtype)).type_as(states)
        return embedded, embedder.time_proj(embedder.act_fn(embedded)).unflatten(-1, (6, -1))

    def _pose(self, camera_path: Tensor, grid: tuple[int, int, int]) -> Tensor:
        if self.config.pose_encoding == "ray_map":
            features = ray_map(camera_path, grid[1], grid[2], self.config.horizontal_fov)
        else:
            features = c2w_12(camera_path, grid[1], grid[2])
        return features.flatten(1, 2)

    def _unpatchify(self, states: Tensor, embedded: Tensor, grid: tuple[int, int, int]) -> Tensor:
        shift, scale = (self.scale_shift_table[:, None] + embedded[:, :, None])[:, :, :, None].unbind(2)
        states = self.norm_out(states.float()).unflatten(1, (grid[0], -1)) * (1 + scale) + shift
        states = self.proj_out(states.flatten(1, 2).type_as(embedded))
        states = states.unflatten(2, (*self.config.patch_size, -1)).unflatten(1, grid)  # B T H W t h w C
        return states.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _repeat(cache: list[KeyValue] | None, block: int, batch: int) -> KeyValue | None:
    """The cached keys and values of a block, one row a target."""
    if cache is None:
        return None
    key, value = cache[block]
    repeats = batch // len(key)
    return key.repeat_interleave(repeats, 0), value.repeat_interleave(repeats, 0)


def _check_option(name: str, value: str | None, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}: choose one of them")
