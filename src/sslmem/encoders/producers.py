"""Who writes which checkpoint: one declaration for each producer.

A declaration says by which entries its files are known, which of several encoders in it is audited unless another is
asked for and what the others are called, what is left out and why, and what the weights do not show. Names are those
in the file, ``KEY/NAME`` where it holds several state dicts, after wrappers such as ``module.`` are taken off.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

IMAGENET_MEAN = (0.485, 0.456, 0.406)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALVES = (0.5, 0.5, 0.5)
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")


@dataclass(frozen=True)
class Producer:
    """How one producer writes checkpoints.

    Attributes:
        name: of the producer.
        marks: patterns; each must match some entry.
        branches: label and pattern of the place of each encoder; the first that is there is audited by default.
        drop: pattern of entries that belong to no encoder, and why they are left out.
        method: how its encoders are trained, if that is always the same.
        options: what the weights do not show; see :mod:`sslmem.encoders.settings`.
        mean: of the normalisation, where it is not ImageNet's.
        std: likewise.
    """

    name: str
    marks: tuple[str, ...]
    branches: tuple[tuple[str, str], ...] = ()
    drop: tuple[tuple[str, str], ...] = ()
    method: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


# What open_clip and OpenAI write beside the visual tower.
_TEXTS = (
    (r"(text|transformer|token_embedding|ln_final)\.", "the text encoder"),
    (r"(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)$", "the text encoder"),
    (r"(visual\.proj|input_resolution|context_length|vocab_size)$", "the projection to the space of texts"),
    (r"visual\.head\.", "the projection to the space of texts"),
)
PRODUCERS = (
    # Masked prediction
    Producer(
        "MAE",
        marks=(r"(^|/)decoder_embed\.weight$", r"(^|/)decoder_blocks\."),
        drop=((r"decoder_", "the decoder"), (r"mask_token$", "a token of the decoder")),
        method="mae",
    ),
    Producer(
        "SSLMem (MAE)",
        marks=(r"^encoder\.patchify\.weight$", r"^encoder\.pos_embedding$"),
        drop=((r"decoder\.", "the decoder"),),
        method="mae",
        options={"norm_eps": 1e-5},
    ),
    Producer(
        "I-JEPA",
        marks=(r"^target_encoder/", r"^encoder/", r"^predictor/"),
        branches=(("target", r"target_encoder/"), ("context", r"encoder/")),
        drop=((r"predictor/", "the predictor"),),
        method="ijepa",
    ),
    # Self-distillation
    Producer(
        "DINOv3",
        marks=(r"(^|[./])(storage_tokens|rope_embed\.periods)$",),
        branches=(("teacher", r"(model/)?teacher[./](backbone\.)?"), ("student", r"(model/)?student[./](backbone\.)?")),
        drop=((r"((model_ema|teacher|student|gram)\.)?(dino_head|ibot_head|dino_loss|ibot_patch_loss)\.",
               "heads and losses"),),
        method="dinov3",
    ),
    Producer(
        "DINOv2",
        marks=(r"(^|[./])(dino_head|ibot_head)\.",),
        branches=(("teacher", r"(model/)?teacher[./](backbone\.)?"), ("student", r"(model/)?student[./](backbone\.)?")),
        drop=((r"(teacher\.|student\.)?(dino_head|ibot_head|dino_loss|ibot_patch_loss)\.", "heads and losses"),
              (r"(.*\.)?mask_token$", "a token of the training")),
        method="dinov2",
    ),
    Producer(
        "DINOv2 (released)",
        marks=(r"(^|[./])mask_token$", r"blocks\.0\.(0\.)?ls1\.gamma$"),
        drop=((r"(.*\.)?mask_token$", "a token of the training"),),
        method="dinov2",
    ),
    Producer(
        "iBOT",
        marks=(r"(^|[./])masked_embed$",),
        branches=(("teacher", r"teacher/(backbone\.)?"), ("student", r"student/(backbone\.)?")),
        drop=((r"head\.", "the projection head"), (r"(backbone\.)?masked_embed$", "a token of the training")),
        method="ibot",
        options={"norm_eps": 1e-6},
    ),
    Producer(
        "DINO",
        marks=(r"^teacher/", r"^student/"),
        branches=(("teacher", r"teacher/(backbone\.)?"), ("student", r"student/(backbone\.)?")),
        drop=((r"head\.", "the projection head"),),
        method="dino",
    ),
    # Joint embedding
    Producer(
        "MoCo v1/v2",
        marks=(r"(^|/)encoder_q\.", r"(^|/)encoder_k\.", r"(^|/)queue$"),
        branches=(("query", r"(.*/)?encoder_q\."), ("key", r"(.*/)?encoder_k\.")),
        drop=((r"queue(_ptr)?$", "the queue of negatives"), (r"encoder_[qk]\.fc\.", "the projection head")),
        method="moco",
    ),
    Producer(
        "MoCo v3",
        marks=(r"(^|/)base_encoder\.", r"(^|/)momentum_encoder\."),
        branches=(("base", r"(.*/)?base_encoder\."), ("momentum", r"(.*/)?momentum_encoder\.")),
        drop=(
            (r"(base_encoder|momentum_encoder)\.(fc|head)\.", "the projection head"),
            (r"predictor\.", "the predictor"),
        ),
        method="moco",
        options={"heads_by_width": {384: 12}},
    ),
    Producer(
        "BYOL (sthalles)",
        marks=(r"^online_network_state_dict/", r"^target_network_state_dict/"),
        branches=(
            ("online", r"online_network_state_dict/encoder\."),
            ("target", r"target_network_state_dict/encoder\."),
        ),
        drop=((r"projetion\.", "the projection head, spelt so in the file"),),
        method="byol",
    ),
    Producer(
        "BYOL (lucidrains)",
        marks=(r"(^|/)online_encoder\.net\.",),
        branches=(("online", r"(.*/)?online_encoder\.net\."), ("target", r"(.*/)?target_encoder\.net\.")),
        drop=((r"(online_encoder|target_encoder)\.projector\.|online_predictor\.", "projection and prediction heads"),),
        method="byol",
    ),
    Producer(
        "DejaVu",
        marks=(r"(^|/)net\.conv1\.weight$", r"(^|/)projector\."),
        drop=((r"(projector|predictor|bn)\.", "heads"),),
    ),
    Producer(
        "SSLMem (SimCLR)",
        marks=(r"^f\.0\.weight$", r"^g\.0\.weight$"),
        drop=((r"g\.", "the projection head"),),
        method="simclr",
    ),
    Producer(
        "SSLMem (VICReg)",
        marks=(r"(^|/)encoder\.0\.weight$", r"(^|/)expander\."),
        drop=((r"expander\.", "the expander"),),
        method="vicreg",
        options={"max_pool": True},
    ),
    Producer(
        "SwAV",
        marks=(r"(^|/)prototypes\.", r"(^|/)projection_head\."),
        drop=((r"(prototypes|projection_head)\.", "heads"),),
        method="swav",
        mean=IMAGENET_MEAN,
        std=(0.228, 0.224, 0.225),  # so in its evaluation's code
    ),
    Producer(
        "Barlow Twins",
        marks=(r"(^|/)backbone\.", r"(^|/)projector\.", r"(^|/)bn\.running_mean$"),
        drop=((r"(projector|bn)\.", "heads"),),
        method="barlow-twins",
    ),
    Producer(
        "SimCLRv2 (converter)",
        marks=(r"^resnet/net\.0\.net\.0\.weight$",),
        drop=((r"head/", "the projection head"),),
        method="simclr",
    ),
    # Frameworks
    Producer(
        "LightlyTrain",
        marks=(r"^lightly_train/models/model/",),
        branches=(("model", r"lightly_train/models/model/"),),
        drop=((r"lightly_train/models/(wrapped_model|embedding_model)/", "the same encoder, wrapped"),
              (r"state_dict/", "the state of the training")),
    ),
    Producer(
        "VISSL",
        marks=(r"(^|/)_feature_blocks\.",),
        drop=((r"classy_state_dict/.*heads/", "heads"),),
    ),
    Producer(
        "mmselfsup",
        marks=(r"(^|/)backbone\.", r"(^|/)neck\."),
        drop=((r"neck\.", "the neck"), (r"head\.", "a head")),
    ),
    Producer(
        "transformers (ViTMAE)",
        marks=(r"(^|\.)embeddings\.patch_embeddings\.", r"^decoder\.decoder_embed\."),
        drop=((r"decoder\.", "the decoder"),),
        method="mae",
    ),
    Producer(
        "transformers",
        marks=(r"(^|\.)embeddings\.patch_embeddings\.",),
        drop=((r"decoder\.", "the decoder"),),
    ),
    Producer(
        "transformers (ConvNeXt)",
        marks=(r"(^|\.)stages\.0\.downsample_layers\.0\.weight$",),
    ),
    Producer(
        "solo-learn",
        marks=(r"(^|/)(backbone|encoder)\.", r"(^|/)classifier\.weight$", r"(^|/)projector\."),
        branches=(
            ("backbone", r"(.*/)?(backbone|encoder)\."),
            ("momentum", r"(.*/)?momentum_(backbone|encoder)\."),
        ),
        drop=((r"(momentum_)?(projector|predictor|classifier|prototypes)\.", "heads"), (r"queue", "the queue")),
        options={"stem_padding": 2},
    ),
    Producer(
        "lightly",
        marks=(r"(^|/)(backbone|teacher_backbone)\.", r"(^|/)(projection_head|teacher_head)\."),
        branches=(
            ("backbone", r"(.*/)?backbone\."),
            ("momentum", r"(.*/)?backbone_momentum\."),
            ("teacher", r"(.*/)?teacher_backbone\."),
            ("student", r"(.*/)?student_backbone\."),
        ),
        drop=((r"((projection|prediction|teacher|student)_head|projection_head_momentum|criterion)\.", "heads"),),
    ),
    Producer(
        "timm or torchvision, with a moving average",
        marks=(r"^(state_dict_ema|model_ema)/",),
        branches=(("ema", r"(state_dict_ema|model_ema)/"), ("raw", r"(state_dict|model)/")),
        drop=((r"n_averaged$", "a counter"),),
    ),
    Producer(
        "OpenAI CLIP",
        marks=(r"(^|/)visual\.class_embedding$", r"(^|/)input_resolution$"),
        drop=_TEXTS,
        method="clip",
        options={"activation": "quick_gelu"},
        mean=CLIP_MEAN,
        std=CLIP_STD,
    ),
    Producer(
        "open_clip (SigLIP)",
        marks=(r"(^|/)visual\.trunk\.", r"(^|/)logit_bias$"),
        drop=_TEXTS,
        method="siglip",
        mean=HALVES,
        std=HALVES,
    ),
    Producer(
        "open_clip",
        marks=(r"(^|/)visual\.(class_embedding$|trunk\.)", r"(^|/)logit_scale$"),
        drop=_TEXTS,
        method="clip",
        mean=CLIP_MEAN,
        std=CLIP_STD,
    ),
)  # fmt: skip
UNKNOWN = Producer("unknown", marks=())


def unwrapped(name: str) -> str:
    """A name without the wrappers at its start, behind the key that it stands under."""
    key, slash, rest = name.rpartition("/")
    while found := next((wrapper for wrapper in WRAPPERS if rest.startswith(wrapper)), None):
        rest = rest[len(found) :]
    return key + slash + rest


def producer_of(names: Sequence[str]) -> Producer:
    """The first producer all of whose marks are among the names; ``UNKNOWN`` if none's are."""
    clean = [unwrapped(name) for name in names]
    for producer in PRODUCERS:
        if all(any(re.search(mark, name) for name in clean) for mark in producer.marks):
            return producer
    return UNKNOWN


def branches_of(producer: Producer, prefixes: Sequence[str]) -> dict[str, str]:
    """Labels of the encoders found, each with the prefix it stands under, the one audited by default first.

    An encoder that the declaration does not know is called by its prefix.
    """
    found: dict[str, str] = {}
    for label, pattern in producer.branches:
        matching = [prefix for prefix in prefixes if re.fullmatch(pattern, unwrapped(prefix))]
        if len(matching) == 1:
            found[label] = matching[0]
    known = set(found.values())
    return found | {prefix.rstrip("./") or "root": prefix for prefix in prefixes if prefix not in known}


def reason_to_drop(producer: Producer, name: str) -> str | None:
    """Why an entry is left out, if the declaration says so."""
    clean = unwrapped(name).rpartition("/")
    candidates = (clean[2], "".join(clean))
    return next((why for pattern, why in producer.drop if any(re.match(pattern, one) for one in candidates)), None)
