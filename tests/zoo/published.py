"""Names and shapes of the entries in released files, at their published sizes: {name: shape}, by kind of network."""

from collections.abc import Callable

from convert import originals

from jaxpose.methods.anatomy3d import Anatomy3D
from jaxpose.methods.base import Method
from jaxpose.methods.dcpose import DCPose
from jaxpose.methods.dekr import DEKR
from jaxpose.methods.dsnt import DSNT
from jaxpose.methods.heatmap import Heatmap
from jaxpose.methods.higherhrnet import HigherHRNet
from jaxpose.methods.prtr.detr import DETR
from jaxpose.methods.prtr.method import PRTR
from jaxpose.methods.rmpe import RMPE
from jaxpose.methods.vitpose.method import SIZES, ViTPose
from jaxpose.ops.bones import TREES

Shapes = dict[str, tuple[int, ...]]
MODULES = (1, 4, 3)
"""Modules of stages 2 to 4 of a published HRNet."""
UNUSED = ("num_batches_tracked", "regular_matrix", "linspace_x", "linspace_y")
"""Ends of entries that hold no numbers of a network."""


def conv(name: str, outputs: int, inputs: int, size: int = 1, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, size, size)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, channels: int) -> Shapes:
    return originals.norm(name, channels, True)


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def deconv_head(inputs: int, joints: int, layers: int = 3, features: int = 256) -> Shapes:
    shapes = {}
    for i in range(layers):
        shapes |= {
            f"deconv_layers.{3 * i}.weight": (inputs, features, 4, 4),
            **norm(f"deconv_layers.{3 * i + 1}", features),
        }
        inputs = features
    return shapes | conv("final_layer", joints, inputs)


def backbone(name: str, outputs_of_last: int = 1) -> tuple[Shapes, int]:
    """Entries of a published backbone, and the channels of its finest or last map."""
    if name.startswith("hrnet"):
        width = int(name.removeprefix("hrnet_w"))
        return originals.hrnet(width, outputs_of_last, MODULES), width
    return originals.published_resnet(int(name.removeprefix("resnet"))), 2048


# --- the networks, as their authors name them unless a style says otherwise ---


def heatmap(method: Heatmap, style: str) -> Shapes:
    trunk, channels = backbone(method.backbone)
    joints = method.joints.num_joints
    head = conv("final_layer", joints, channels) if "hrnet" in method.backbone else deconv_head(channels, joints)
    return styled(trunk, head, style)


def styled(trunk: Shapes, head: Shapes, style: str) -> Shapes:
    before = {"authors": ("", ""), "mmpose 1.x": ("backbone.", "head."), "mmpose 0.x": ("backbone.", "keypoint_head.")}
    return under(before[style][0], trunk) | under(before[style][1], head)


def higherhrnet(method: HigherHRNet, style: str) -> Shapes:
    trunk, width = backbone(method.backbone)
    joints = method.joints.num_joints
    if not method.deconv_layers:
        return styled(trunk, conv("final_layer", 2 * joints, width), style)
    head = conv("final_layers.0", 2 * joints, width) | conv("final_layers.1", joints, width)
    head |= {"deconv_layers.0.0.0.weight": (width + 2 * joints, width, 4, 4), **norm("deconv_layers.0.0.1", width)}
    for block in range(1, 5):
        head |= originals.basic_block(f"deconv_layers.0.{block}.0", width, width, False)
    return styled(trunk, head, style)


def dekr(method: DEKR, style: str) -> Shapes:
    trunk, width = backbone(method.backbone, outputs_of_last=4)
    joints, features = method.joints.num_joints, 15
    if style == "mmpose 1.x":
        return styled(trunk, _mmpose_dekr(width, joints, features), style)
    head = originals.conv_norm("transition_heatmap", width, 15 * width, 1)
    head |= originals.conv_norm("transition_offset", joints * features, 15 * width, 1)
    head |= originals.basic_block("head_heatmap.0.0", width, width, False) | conv("head_heatmap.1", joints + 1, width)
    for joint in range(joints):
        for block in range(2):
            name = f"offset_feature_layers.{joint}.{block}"
            head |= conv(f"{name}.transform_matrix_conv", 4, features, 3) | conv(
                f"{name}.translation_conv", 2, features, 3
            )
            head |= conv(f"{name}.adapt_conv", features, features, 3, bias=False) | norm(f"{name}.bn", features)
            head[f"{name}.regular_matrix"] = (2, 9)
        head |= conv(f"offset_final_layer.{joint}", 2, features)
    return trunk | head


def _mmpose_dekr(width: int, joints: int, features: int) -> Shapes:
    maps, vectors, channels = "heatmap_conv_layers", "displacement_conv_layers", joints * features
    head = conv(f"{maps}.0.conv", width, 15 * width, bias=False) | norm(f"{maps}.0.bn", width)
    head |= originals.basic_block(f"{maps}.1", width, width, False) | conv(f"{maps}.2", joints + 1, width)
    head |= conv(f"{vectors}.0.conv", channels, 15 * width, bias=False) | norm(f"{vectors}.0.bn", channels)
    for block in (1, 2):
        head |= conv(f"{vectors}.{block}.transform_matrix_conv", 6 * joints, features, 3)
        head |= conv(f"{vectors}.{block}.adapt_conv", channels, features, 3, bias=False)
        head |= norm(f"{vectors}.{block}.norm", channels) | {f"{vectors}.{block}.regular_matrix": (3, 9)}
    return head | conv(f"{vectors}.3", 2 * joints, features)


def dsnt(method: DSNT, style: str) -> Shapes:
    trunk, channels = backbone(method.backbone)
    head = under("simplebaseline_head.", deconv_head(channels, method.joints.num_joints))
    return styled(trunk, head | {"linspace_x": (1, 1, 1, 64), "linspace_y": (1, 1, 64, 1)}, style)


def anatomy3d(method: Anatomy3D, style: str) -> Shapes:
    joints, features = method.joints.num_joints, method.channels

    def taps(name: str, outputs: int, inputs: int, width: int = 1, bias: bool = False) -> Shapes:
        return {f"{name}.weight": (outputs, inputs, width)} | ({f"{name}.bias": (outputs,)} if bias else {})

    if style == "mmpose 1.x":
        places = {"expand_conv": (2 * joints, 3)}
        for i, width in enumerate(method.widths[1:]):
            places |= {f"tcn_blocks.{i}.conv1.0": (features, width), f"tcn_blocks.{i}.conv2.0": (features, 1)}
        trunk = {}
        for name, (inputs, width) in places.items():
            trunk |= taps(f"{name}.conv", features, inputs, width) | norm(f"{name}.bn", features)
        return styled(trunk, taps("conv", 3 * joints, features, bias=True), style)
    bones, pairs, levels = joints - 1, len(TREES["h36m"].shift_pairs), len(method.widths)
    shapes = taps("expand_conv", features, 2 * joints, 3) | norm("expand_bn", features)
    shapes |= taps("expand_convscore", features, joints, 3) | norm("expand_bnscore", features)
    for i in range(levels - 1):
        for suffix in ("", "1"):
            inputs = 2 * features if suffix or i == 0 else features
            shapes |= taps(f"layers_conv{suffix}.{2 * i}", features, inputs, 3) | norm(
                f"layers_bn{suffix}.{2 * i}", features
            )
            shapes |= taps(f"layers_conv{suffix}.{2 * i + 1}", features, features)
            shapes |= norm(f"layers_bn{suffix}.{2 * i + 1}", features)
    for i in range(2 * levels - 1):
        shapes |= originals.linear(f"layers_convbone.{i}", features, features if i else 2 * joints)
        shapes |= norm(f"layers_bnbone.{i}", features)
    shapes |= originals.linear(f"layers_convbone.{2 * levels - 1}", 3 * joints, features)
    shapes |= originals.linear("boneatt", bones, 6 * joints) | taps("shrink", 3 * joints, features, bias=True)
    for suffix in ("", "_1", "_2"):
        shapes |= originals.linear(f"lengthlinear{suffix}", features, bones)
        shapes |= taps(f"directlinear{suffix}", features, 3 * bones, bias=True)
    for i in (1, 2):
        shapes |= taps(f"shrink_direct_{i}", 3 * bones, features, bias=True)
        shapes |= taps(f"shrink_js_{i}", 3 * pairs, features, bias=True)
    return shapes


def rmpe(method: RMPE, style: str) -> Shapes:
    kind, depth = method.backbone.rstrip("0123456789"), int(method.backbone[-3:].lstrip("esltf"))
    trunk, joints, shuffle = originals.published_resnet(depth), method.joints.num_joints, kind == "shuffle"
    for stage, blocks in enumerate(originals.DEPTHS[depth]):
        for block in range(blocks if kind != "resnet" else 0):
            name, width = f"layer{stage + 1}.{block}", 64 * 2**stage
            if block == 0:
                trunk |= originals.linear(f"{name}.se.fc.0", 4 * width, 4 * width)
                trunk |= originals.linear(f"{name}.se.fc.2", 4 * width, 4 * width)
            if method.deformable and stage:
                trunk |= conv(f"{name}.conv2_offset", 18, width, 3)
            if shuffle and stage and block == 0:
                del trunk[f"{name}.conv2.weight"]
                trunk[f"{name}.conv2.1.weight"] = (width, 4 * width, 3, 3)
    return under("preact.", trunk) | ALPHAPOSE_HEADS[method.network](joints)


def _fastpose(joints: int) -> Shapes:
    shapes = conv("duc1.conv", 1024, 512, 3, bias=False) | norm("duc1.bn", 1024)
    shapes |= conv("duc2.conv", 512, 256, 3, bias=False) | norm("duc2.bn", 512)
    return shapes | conv("conv_out", joints, 128, 3)


def _duc(joints: int) -> Shapes:
    shapes, inputs = {}, 512
    for stage, count in ((1, 4), (2, 2), (3, 1)):
        for i in range(count):
            outputs = 2 * inputs if i == count - 1 else inputs
            shapes |= conv(f"duc{stage}.{3 * i + 1}", outputs, inputs, 3, bias=False)
            shapes |= norm(f"duc{stage}.{3 * i + 2}", outputs)
        inputs //= 2
    return shapes | conv("conv_out", joints, 4 * inputs, 3)


ALPHAPOSE_HEADS: dict[str, Callable[[int], Shapes]] = {
    "fastpose": _fastpose,
    "fastpose_duc": _duc,
    "simplepose": lambda joints: deconv_head(2048, joints),
}


def prtr(method: PRTR, style: str) -> Shapes:
    return (
        _transformer(method) | originals.linear("class_embed", method.joints.num_joints + 1, 256) | _mlp("kpt_embed", 2)
    )


def detr(method: DETR, style: str) -> Shapes:
    return _transformer(method) | originals.linear("class_embed", 92, 256) | _mlp("bbox_embed", 4)


def _mlp(name: str, outputs: int) -> Shapes:
    shapes = {}
    for i, count in enumerate((256, 256, outputs)):
        shapes |= originals.linear(f"{name}.layers.{i}", count, 256)
    return shapes


def _transformer(method: PRTR | DETR) -> Shapes:
    if method.backbone.startswith("hrnet"):
        width = int(method.backbone.removeprefix("hrnet_w"))
        trunk = originals.hrnet(width, 4, MODULES) | originals.hrnet_classifier(width)
        trunk = {name: shape for name, shape in trunk.items() if not name.startswith("classifier")}
    else:
        trunk = backbone(method.backbone)[0]
    shapes = under("backbone.0.body.", trunk) | conv("input_proj", 256, 2048)
    for i in range(6):
        shapes |= originals.transformer_layer(f"transformer.encoder.layers.{i}", 256, 2048, cross=False)
        shapes |= originals.transformer_layer(f"transformer.decoder.layers.{i}", 256, 2048, cross=True)
    shapes |= {f"transformer.decoder.norm.{leaf}": (256,) for leaf in ("weight", "bias")}
    return shapes | {"query_embed.weight": (100, 256)}


def dcpose(method: DCPose, style: str) -> Shapes:
    joints = method.joints.num_joints
    trunk, width = backbone(method.backbone)
    shapes = under("rough_pose_estimation_net.", trunk | conv("final_layer", joints, width))
    shapes |= _steps("diff_temporal_fuse", 4 * joints, 2 * joints, 2) | _steps(
        "support_temporal_fuse", 3 * joints, joints, 1
    )
    shapes |= _steps("offset_mask_combine_conv", 3 * joints, 64, 2)
    for index in range(5):
        shapes |= conv(f"offsets_list.{index}.0", 18 * joints, 64, 3, bias=False)
        shapes |= conv(f"masks_list.{index}.0", 9 * joints, 64, 3, bias=False)
        shapes |= conv(f"modulated_deform_conv_list.{index}.deform_conv", joints, joints, 3)
    return shapes


def _steps(name: str, inputs: int, outputs: int, blocks: int) -> Shapes:
    """A chain of residual steps blocks."""

    def unit(part: str, inputs: int, outputs: int, size: int) -> Shapes:
        return conv(f"{part}.conv", outputs, inputs, size) | norm(f"{part}.bn", outputs)

    shapes = {}
    for index in range(blocks):
        block, width = f"{name}.layers.{index}", inputs * 26 // 64
        shapes |= unit(f"{block}.conv_bn_relu1", inputs, 4 * width, 1)
        for row in range(1, 5):
            for column in range(1, row + 1):
                shapes |= unit(f"{block}.conv_bn_relu2_{row}_{column}", width, width, 3)
        shapes |= unit(f"{block}.conv_bn_relu3", 4 * width, outputs, 1)
        if index == 0:
            shapes |= unit(f"{block}.downsample", inputs, outputs, 1)
        inputs = outputs
    return shapes


def vitpose(method: ViTPose, style: str) -> Shapes:
    """Of transformers, or of the authors, whose entries have mmpose's prefixes of versions 0.x."""
    width, layers, _ = SIZES[method.size]
    joints, ours = method.joints.num_joints, style == "transformers"
    table = "embeddings.position_embeddings" if ours else "pos_embed"
    trunk = {table: (1, 193, width)} | conv(
        "embeddings.patch_embeddings.projection" if ours else "patch_embed.proj", width, 3, 16
    )
    last = "layernorm" if ours else "last_norm"
    trunk |= {f"{last}.{leaf}": (width,) for leaf in ("weight", "bias")}
    for i in range(layers):
        trunk |= _port_block(f"encoder.layer.{i}", width) if ours else _own_block(f"blocks.{i}", width)
    return under("backbone.", trunk) | _vit_head(method.head, width, joints, ours)


def _port_block(name: str, width: int) -> Shapes:
    shapes = originals.linear(f"{name}.attention.output.dense", width, width)
    for part in ("query", "key", "value"):
        shapes |= originals.linear(f"{name}.attention.attention.{part}", width, width)
    shapes |= originals.linear(f"{name}.mlp.fc1", 4 * width, width) | originals.linear(
        f"{name}.mlp.fc2", width, 4 * width
    )
    norms = ("layernorm_before", "layernorm_after")
    return shapes | {f"{name}.{part}.{leaf}": (width,) for part in norms for leaf in ("weight", "bias")}


def _own_block(name: str, width: int) -> Shapes:
    shapes = originals.linear(f"{name}.attn.qkv", 3 * width, width) | originals.linear(
        f"{name}.attn.proj", width, width
    )
    shapes |= originals.linear(f"{name}.mlp.fc1", 4 * width, width) | originals.linear(
        f"{name}.mlp.fc2", width, 4 * width
    )
    return shapes | {f"{name}.norm{i}.{leaf}": (width,) for i in (1, 2) for leaf in ("weight", "bias")}


def _vit_head(head: str, width: int, joints: int, ours: bool) -> Shapes:
    if head == "simple":
        return conv("head.conv" if ours else "keypoint_head.final_layer", joints, width, 3)
    if not ours:
        return under("keypoint_head.", deconv_head(width, joints, layers=2))
    shapes = {"head.deconv1.weight": (width, 256, 4, 4), "head.deconv2.weight": (256, 256, 4, 4)}
    return shapes | norm("head.batchnorm1", 256) | norm("head.batchnorm2", 256) | conv("head.conv", joints, 256)


BUILDERS: dict[str, tuple[Callable[..., Shapes], tuple[str, ...]]] = {
    "heatmap": (heatmap, ("authors", "mmpose 1.x", "mmpose 0.x")),
    "higherhrnet": (higherhrnet, ("authors", "mmpose 1.x", "mmpose 0.x")),
    "dekr": (dekr, ("authors", "mmpose 1.x")),
    "dsnt": (dsnt, ("mmpose 1.x",)),
    "rmpe": (rmpe, ("authors",)),
    "prtr": (prtr, ("authors",)),
    "detr": (detr, ("authors",)),
    "dcpose": (dcpose, ("authors",)),
    "vitpose": (vitpose, ("transformers", "authors")),
    "anatomy3d": (anatomy3d, ("authors", "mmpose 1.x")),
}
"""{name of the method: function (method, style) -> entries, and the styles in which there are such files}."""


def styles_of(name: str, method: Method) -> tuple[str, ...]:
    """The styles of the files of a network: of convolutions over time, each kind has one."""
    if isinstance(method, Anatomy3D):
        return ("mmpose 1.x",) if method.direct else ("authors",)
    return BUILDERS[name][1]
