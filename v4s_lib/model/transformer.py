"""A video diffusion transformer that knows a scene from the latents of an unposed context video.

References: Video4Spatial (arXiv 2512.03040), Wan (arXiv 2503.20314). The parameters carry the names of diffusers'
``WanTransformer3DModel``; parts that Wan has not are listed in ``NEW_KEYS``.
Axis letters: B batch, M targets a context, C channels, T latent frames, H, W latent pixels, N tokens, D width.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding
from torch import Tensor, nn

from v4s_lib.model.blocks import ContextVideoBlock, KeyValue, TimeIndexRotaryEmbed, repeat_cached, zero_linear
from v4s_lib.model.checks import check_conditions, check_option, check_parts
from v4s_lib.model.context import ContextMixin, ContextPool
from v4s_lib.model.finder import Finder
from v4s_lib.model.localizer import TIME_WAVES, Localizer, place_path
from v4s_lib.model.outputs import ContextCache, Findings, join
from v4s_lib.model.painter import Painter
from v4s_lib.model.pose import POSE_FEATURES, PoseAdapter
from v4s_lib.model.sight import LEAST_CELL, Sight
from v4s_lib.model.task_adapters import TaskAdapter, seeks_object
from v4s_lib.model.text import WordEmbedding
from v4s_lib.model.tokens import CONTEXT, MOVING, TokenMixin, clean_or
from v4s_lib.model.way import WayMixin
from v4s_lib.model.weights import check_keys, is_stock, quiet

# What a stock Wan checkpoint does not have; the first four start at zero, and may be added to one.
ZERO_KEYS = ("pose_adapter.", "role_embedding", "position_embedding", "time_adapter.")
LEARNT = ("localizer.", "sight.", "word_embedding.", "finder.", "painter.", "context_pool.", "task_adapter.")
NEW_KEYS = (*ZERO_KEYS, *LEARNT)


class ContextVideoTransformer(TokenMixin, ContextMixin, WayMixin, ModelMixin, ConfigMixin):
    """Denoises target latents given context latents, a start latent, and a text or a camera path.

    Args:
        patch_size: latents, rows and columns that one token covers.
        num_attention_heads, attention_head_dim, num_layers, ffn_dim: sizes of the stack; D = heads * head_dim.
        in_channels, out_channels: channels of a latent.
        text_dim: width of the text embeddings; None builds a model without text.
        vocabulary: words of a model that embeds its instructions itself (see WordEmbedding), None for a text encoder.
        freq_dim: width of the timestep's sinusoids.
        cross_attn_norm, qk_norm, eps: as Wan.
        rope_max_seq_len, rope_theta: range of the time index, and base of the rotary frequencies.
        context_attention: "two_way" (the paper: one joint sequence) or "one_way" (context attends to context alone).
            Before a localizer all are one-way, for where frames stand does not change with what is drawn.
        pose_encoding: "ray_map", "c2w_12" or None for a model without camera path.
        horizontal_fov: of the camera, degrees; used by the ray map.
        position_size: rows and columns of a learned embedding of a token's place in its frame, None for none.
        relative_time: also tell every context latent how long before the last one it was taken, as sinusoids.
        localize_after: blocks after which it is told where its frames stand (see Localizer); None is the paper's form.
        ray_rotary: in the blocks after the localizer, rotary embedding by where in the room a token looks.
        see_places: pixels that a latent's patch is wide, to place frames by what they share (see Sight).
        cell: pixels that a cell of sight and of the finder is wide and high: 4, 8, 16 ...
        find_words: pixels that a latent's patch is wide, to look up in the context what words name (see Finder); None
            for no such part.
        paint: paint the context's own pixels, where sight has placed them, over what comes out (see Painter).
        prediction_type: what the output is: "sample" (clean latents) or "velocity".
        context_compression: latents, rows and columns of a one-way context whose keys and values targets see as one.
        spatial_only_context: every latent of a one-way context attends to itself alone.
        pose_blocks, context_blocks: numbers of the blocks in which targets are told the path, and in which they attend
            to a one-way context; None is all.
        task_adapters: rank of adapters for each task (see TaskAdapter); needs a vocabulary.
    """

    _no_split_modules = ["ContextVideoBlock"]
    _repeated_blocks = ["ContextVideoBlock"]  # compiled once for all
    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        in_channels: int = 48,
        out_channels: int | None = None,
        text_dim: int | None = 4096,
        vocabulary: list[str] | None = None,
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
        relative_time: bool = False,
        localize_after: int | None = None,
        ray_rotary: bool = False,
        see_places: int | None = None,
        cell: int = LEAST_CELL,
        find_words: int | None = None,
        paint: bool = False,
        prediction_type: str = "velocity",
        context_compression: tuple[int, int, int] | None = None,
        spatial_only_context: bool = False,
        pose_blocks: list[int] | None = None,
        context_blocks: list[int] | None = None,
        task_adapters: int | None = None,
    ) -> None:
        super().__init__()
        check_option("context_attention", context_attention, ("two_way", "one_way"))
        check_option("pose_encoding", pose_encoding, (None, *POSE_FEATURES))
        check_option("prediction_type", prediction_type, ("sample", "velocity"))
        check_option("localize_after", localize_after, (None, *range(num_layers)))
        check_parts(self.config)
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
        self.role_embedding = nn.Parameter(torch.zeros(4, dim))
        self.position_embedding = None
        if position_size is not None:
            self.position_embedding = nn.Parameter(torch.zeros(position_size[0] * position_size[1], dim))
        self.pose_adapter = None
        if pose_encoding is not None:
            self.pose_adapter = nn.ModuleList(
                zero_linear(POSE_FEATURES[pose_encoding], dim, kind=PoseAdapter) for _ in range(num_layers)
            )
        self.time_adapter = zero_linear(TIME_WAVES, dim, bias=False) if relative_time else None
        self.localizer = None
        if localize_after is not None:
            tokens = position_size[0] * position_size[1] if see_places is None else None
            self.localizer = Localizer(dim, tokens, num_layers - localize_after)
        self.word_embedding = WordEmbedding(text_dim, vocabulary) if vocabulary is not None else None
        self.sight = None if see_places is None else Sight(see_places, position_size, horizontal_fov, cell)
        self.painter = Painter(dim, see_places) if paint else None
        self.finder = None if find_words is None else Finder(dim, text_dim, find_words, see_places is not None, cell)
        self.context_pool = self.task_adapter = None
        if context_compression is not None:
            pools = (
                ContextPool(tuple(context_compression), num_attention_heads, attention_head_dim) for _ in self.blocks
            )
            self.context_pool = nn.ModuleList(pools)
        if task_adapters is not None:
            self.task_adapter = nn.ModuleList(TaskAdapter(dim, task_adapters) for _ in self.blocks)

    @classmethod
    def from_pretrained(cls, folder, **kwargs) -> "ContextVideoTransformer":
        """As diffusers', but from safetensors only and strict: ``ValueError`` names missing and unexpected keys.

        A checkpoint of stock ``WanTransformer3DModel`` may lack ``ZERO_KEYS``, and options such as ``pose_encoding``
        may be given with it: with zeros for them the model gives stock Wan's output.
        """
        stock = is_stock(folder, cls.load_config(folder, **kwargs), cls._get_init_keys(cls))
        kwargs |= {"use_safetensors": True, "output_loading_info": True}
        with quiet():
            model, info = super().from_pretrained(folder, **kwargs)
        new = {key for key in info["missing_keys"] if stock and key.startswith(ZERO_KEYS)}
        check_keys(folder, set(info["missing_keys"]) - new, info["unexpected_keys"])
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        zeros = {key: model.proj_out.weight.new_zeros(shapes[key]) for key in new}
        model.load_state_dict(zeros, strict=False, assign=True)
        return model

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs) -> tuple:
        """As diffusers', which would remark on the options of stock Wan that are None and not ours."""
        options = cls._get_init_keys(cls)
        known = {name: value for name, value in config_dict.items() if value is not None or name in options}
        return super().extract_init_dict(known, **kwargs)

    def _run(self, block: ContextVideoBlock, *inputs: object) -> tuple[Tensor, KeyValue]:
        """A block's outputs; with gradient checkpointing its activations are not kept, but computed again."""
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        return self._gradient_checkpointing_func(block, *inputs) if again else block(*inputs)

    def forward(
        self,
        target_latents: Tensor | None,
        timestep: Tensor | None,
        target_time_index: Tensor | None,
        context_latents: Tensor | None = None,
        context_time_index: Tensor | None = None,
        context_timestep: Tensor | None = None,
        context_cache: ContextCache | None = None,
        encoder_hidden_states: Tensor | None = None,
        words: Tensor | None = None,
        camera_path: Tensor | None = None,
        camera_mask: Tensor | None = None,
        clean_latents: int = 1,
        return_findings: bool = False,
        only_findings: bool = False,
        only_seen: bool = False,
        paint_frames: list[int] | None = None,
        known: Findings | None = None,
    ) -> Tensor | tuple[Tensor, Findings] | Findings:
        """Predict the clean target latents or their velocity, see ``prediction_type``.

        Args:
            target_latents: (B*M, C, T, H, W); the first ``clean_latents`` are given clean, the others are noisy.
            timestep: (B*M,) in 0..1000 of the noisy latents; the clean ones carry 0.
            target_time_index: (B*M, T).
            context_latents, context_time_index: (B, C, T', H, W) and (B, T'), one context for M targets, or None.
            context_timestep: (B,) None is 0; the unconditional branch passes the noise's own.
            context_cache: what ``encode_context`` returned, instead of ``context_latents``.
            encoder_hidden_states: (B*M, L, text_dim), or None for no text.
            words: (B*M, L) indices into the vocabulary, instead of ``encoder_hidden_states``.
            camera_path, camera_mask: (B*M, T, 4, 4, 4) c2w relative to the start frame; (B*M,), False ignores it.
            clean_latents: how many leading target latents are given.
            return_findings: also return what localizer, sight and finder predict.
            only_findings: stop there: what a plan is made of.
            only_seen: find nothing but what teaches sight and finder, from ``context_latents`` and start frames;
                without those (``target_latents`` None) what teaches the finder.
            paint_frames: which of the noisy latents' frames a painter paints; None is all.
            known: findings of the same start frames and context, which this call fills in. Where the start frames stand
                is worked out by the first call that is given them, a plan among them; what is seen from the camera
                path by the first that draws, so path, mask, clean latents and painted frames must stay the same.

        Returns:
            (B*M, C, T, H, W), and the findings if asked for.
        """
        if words is not None and self.word_embedding is not None:
            encoder_hidden_states = self.word_embedding(words)
        check_conditions(self, context_cache, encoder_hidden_states, words, camera_path)
        if only_seen:
            return self._look_alone(context_latents, target_latents, encoder_hidden_states)
        findings = Findings() if known is None else known
        states, grid = self._embed(target_latents, MOVING, clean_latents)
        times = timestep[:, None].repeat(1, grid[0])
        times[:, :clean_latents] = 0
        index = target_time_index
        stream = None
        if context_latents is not None and not self.keeps_context:
            context, context_grid = self._embed(context_latents, CONTEXT, time_index=context_time_index)
            context_times = clean_or(context_timestep, context).expand(-1, context_grid[0])
            states, times, index = join(context, states), join(context_times, times), join(context_time_index, index)
        elif context_latents is not None:
            context_cache = self._encode_context(context_latents, context_time_index, context_timestep, findings)
        embedded, modulation = self._time(times, states)
        text = None if encoder_hidden_states is None else self.condition_embedder.text_embedder(encoder_hidden_states)
        rotary = self.rope(index, *grid[1:])
        pose, mask = None if camera_path is None else self._pose(camera_path, grid), camera_mask
        tokens = grid[0] * grid[1] * grid[2]
        seeks = None if self.task_adapter is None else seeks_object(words, self.config.vocabulary, states)
        first = states
        for i, block in enumerate(self.blocks):
            if i == self.config.localize_after:
                states = self._find_way(states, target_latents, encoder_hidden_states, context_cache, findings)
                if only_findings:
                    return findings
                states = self.localizer.draw_from(first, states)
                path = place_path(camera_path, camera_mask, findings.target_poses, context_cache is not None)
                if self.pose_adapter is not None:  # from here on the path stands in the context's axes
                    pose, mask = self._pose(path, grid), None
                if self.config.ray_rotary:
                    rotary = self._ray_rotary(path, index, grid)
                if context_cache is not None and context_cache.stream is not None:
                    stream = context_cache.stream
                    states, modulation, rotary = stream.join(states, modulation, rotary)
            before, own = states[:, :-tokens], states[:, -tokens:]  # the context of a joint sequence, and the targets
            if self.task_adapter is not None:
                own = self.task_adapter[i](own, seeks)
            if pose is not None and (self.config.pose_blocks is None or i in self.config.pose_blocks):
                change = self.pose_adapter[i](pose).type_as(own)
                own = own + (change if mask is None else change * mask[:, None, None])
            if stream is not None:
                before = stream.tell(before, self.localizer.adapter[i - self.config.localize_after])
            states = torch.cat([before, own], dim=1)
            context = None if context_cache is None else context_cache.blocks[i]
            context = None if context is None else repeat_cached(context, len(states))
            states, _ = self._run(block, states, modulation, rotary, text, context, self._by_ray(i))
        output = self._unpatchify(states[:, -tokens:], embedded[:, -grid[0] :], grid)
        if self.painter is not None:
            cameras = path[:, clean_latents:].flatten(1, 2)
            frames = list(range(cameras.shape[1])) if paint_frames is None else paint_frames
            if findings.views is None:
                places = path[:, 0, -1], cameras[:, frames]
                findings.views = self._views(target_latents, context_cache, findings, *places)
            shared = path.new_zeros(len(path)) if findings.shared is None else findings.shared
            noisy = output[:, :, clean_latents:], target_latents[:, :, clean_latents:], times[:, clean_latents:]
            painted = self.painter(*noisy, findings.views, shared, frames)
            output = torch.cat([output[:, :, :clean_latents], painted], dim=2)
        return (output, findings) if return_findings else output
