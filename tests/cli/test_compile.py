"""Compiling for a TPU slice: reading the program, and one real compilation."""

import pathlib
import subprocess
import sys

import pytest

from jaxpose.cli.compile import CHIPS, GIB, Report, prepare_environment
from jaxpose.cli.hlo import count_collectives, count_slow, count_traffic
from jaxpose.errors import ConfigError

HLO = """
  %all-reduce.1 = (f32[16]{0:T(128)}, /*index=1*/f32[2,8]{1,0:T(8,128)}) all-reduce(%a, %b), channel_id=3
  %get-tuple-element.2 = f32[16]{0} get-tuple-element(%all-reduce.1), index=1
  %all-gather-start.3 = (bf16[4]{0}, bf16[16]{0}) all-gather-start(%c), channel_id=4
  %all-gather-done.3 = bf16[16]{0} all-gather-done(%all-gather-start.3)
  %r = pred[] all-reduce(%d), to_apply=%or
"""


def report(**changes) -> Report:
    fields = {
        "devices": 16,
        "memory": {"state and batch": GIB, "temporary": 2 * GIB},
        "flops": 197e12,
        "traffic": 819e9 // 2,
        "collectives": {"all-reduce": (2, 100_000_000)},
        "slow": {"while": 1},
        "parameters": 100_000_000,
        "statistics": 0,
        "compile_seconds": 1.0,
        "chip": CHIPS["v5e"],
    }
    return Report(**fields | changes)


def test_collectives_are_counted_with_their_bytes():
    found = count_collectives(HLO)
    assert found["all-reduce"] == (2, 4 * 16 + 4 * 16 + 1)
    assert found["all-gather"] == (1, (2 * 4 + 2 * 16) // 2)


def test_slow_operations_are_counted():
    more = """
  %gather.7 = f32[8,16]{1,0} gather(%x, %i), offset_dims={1}
  ROOT %scatter.1 = (f32[8]{0}, f32[8]{0}) scatter(%x, %i, %u), to_apply=%add
  %all-gather.3 = f32[8]{0} all-gather(%gather.7), channel_id=4
  %w = (s32[], f32[4]{0}) while(%t), condition=%c, body=%b
  %k = f32[8]{0} custom-call(%x), custom_call_target="Sort"
"""
    assert count_slow(HLO + more) == {"gather": 1, "scatter": 1, "while": 1, "custom-call Sort": 1}
    assert "slow paths    1 while" in str(report())


PROGRAM = """HloModule step

%fused (p: f32[100]) -> f32[100] {
  %p = f32[100]{0} parameter(0)
  ROOT %n = f32[100]{0} negate(%p)
}

%body (t: (s32[], f32[100])) -> (s32[], f32[100]) {
  %t = (s32[], f32[100]{0}) parameter(0)
  %x = f32[100]{0} get-tuple-element(%t), index=1
  %y = f32[100]{0:T(128)S(1)} fusion(%x), kind=kLoop, calls=%fused
  ROOT %u = (s32[], f32[100]{0}) tuple(%i, %y)
}

%cond (t.1: (s32[], f32[100])) -> pred[] {
  %t.1 = (s32[], f32[100]{0}) parameter(0)
  ROOT %c = pred[]{:S(6)} constant(true)
}

ENTRY %main (a: f32[1000], b: bf16[50]) -> f32[1000] {
  %a = f32[1000]{0} parameter(0)
  %b = bf16[50]{0} parameter(1)
  %slice-start = ((f32[1000]{0}), f32[10]{0:T(128)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:10]}
  %slice-done = f32[10]{0:T(128)S(1)} slice-done(%slice-start)
  %copy-start.1 = (f32[1000]{0}, f32[1000]{0}, u32[]) copy-start(%a)
  %copy-done.1 = f32[1000]{0} copy-done(%copy-start.1)
  %here = f32[10]{0:T(128)S(1)} fusion(%slice-done, %b), kind=kLoop, calls=%fused
  %w = (s32[], f32[100]{0}) while(%init), condition=%cond, body=%body
  ROOT %out = f32[1000]{0} fusion(%copy-done.1, %here), kind=kLoop, calls=%fused
}
"""


def test_traffic_is_what_leaves_or_enters_hbm():
    """The slice, the copy in and out, an operand, the loop's once, and the last fusion's operand and result."""
    assert count_traffic(PROGRAM) == 4 * 10 + 2 * 4 * 1000 + 2 * 50 + 4 * 100 + 2 * 4 * 1000


def test_roofline_names_what_bounds_the_step():
    assert report().times()["arithmetic"] == pytest.approx(1.0)
    assert report().times()["memory"] == pytest.approx(0.5)
    assert "bound by arithmetic" in str(report())
    assert "bound by memory" in str(report(flops=1.0))
    assert str(report()).endswith("FITS")


def test_loops_make_the_roofline_a_lower_bound():
    assert "one round of each of 3 loops" in str(report(slow={"while": 3}))
    assert "round" not in str(report(slow={"sort": 1}))


def test_too_much_memory_does_not_fit():
    large = report(memory={"temporary": 17 * GIB})
    assert not large.fits
    assert "DOES NOT FIT" in str(large)


@pytest.mark.parametrize("topology", ["v5e", "v9:2x2", "v5e:four"])
def test_unknown_topology(topology):
    with pytest.raises(ConfigError, match="expected one like v5e:4x4"):
        prepare_environment(topology)


RECIPES = (
    *(f"prtr.py:{variant}" for variant in ("coco", "deformable_coco", "detector_coco", "sequential_coco")),
    *("dsnt.py:mpii", "heatmap.py:coco", "rmpe.py:coco", "higherhrnet.py:coco", "dekr.py:coco"),
    "anatomy3d.py:h36m",
)
BESIDES = {"prtr.py:deformable_coco": 1.5}
"""MB that are sent besides gradients and statistics, of which nobody knows yet what they are."""


def compiled(*flags: str) -> tuple[float, float]:
    """MB of all gradients that are sent, and of all parameters, of a config that fits a slice."""
    pytest.importorskip("libtpu", reason="needs the extra 'tpu-compile'")
    command = [sys.executable, "-m", "jaxpose.compile", "--topology=v5e:4x4", *flags]
    out = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, check=True)
    lines = {line.split()[0]: line for line in out.stdout.splitlines()}
    assert "FITS" in lines
    assert "all-gather" not in lines
    return tuple(float(lines[name].split()[1]) for name in ("all-reduce", "parameters"))


@pytest.mark.tpu
@pytest.mark.parametrize("config", ["prtr.py", *RECIPES])
def test_compiles_for_a_slice_and_sends_each_gradient_once(config):
    sent, parameters = compiled(f"--config=configs/{config}")
    # less a frozen stem, plus batch statistics
    assert sent == pytest.approx(parameters, abs=1.0 + BESIDES.get(config, 0.0))


@pytest.mark.tpu
@pytest.mark.parametrize(("stage", "times"), [("pretrain", 1), ("regda", 2)])
def test_phases_send_what_they_move(stage, times):
    """RegDA's three phases: everything, then the adversary, then the features; the head's 2.4 MB but once."""
    sent, parameters = compiled("--config=configs/regda.py:surreal_lsp", f"--stage={stage}")
    assert sent == pytest.approx(times * parameters, rel=0.03)


@pytest.mark.tpu
def test_a_frozen_backbone_sends_no_gradients():
    """DCPose's refinement has 1.6 million parameters, its HRNet-W48 63.6, whose batch statistics do follow."""
    sent, parameters = compiled("--config=configs/dcpose.py:posetrack17")
    assert parameters == pytest.approx(260.8, abs=0.1)
    assert sent == pytest.approx(4 * 1.603 + 0.3, abs=0.1)
