"""What compiled programs consist of, and how long they would run."""

import pytest

from transformer.planning.hlo import parse
from transformer.planning.kernels import BANDWIDTH, LAUNCH, PEAK, collectives, kernels, total

COLLECTIVES = """\
HloModule step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%fused (p: f32[8]) -> f32[32] {
  %p = f32[8]{0:T(128)S(1)} parameter(0)
  ROOT %gathered = f32[32]{0:T(128)} all-gather(%p), dimensions={0}, replica_groups={{0,1,2,3}}
}

%asynchronous (q: f32[32]) -> f32[8] {
  %q = f32[32]{0} parameter(0)
  ROOT %scattered = f32[8]{0} reduce-scatter(%q), dimensions={0}, to_apply=%sum
}

%inner_condition (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %bound = s32[]{:T(128)} constant(3), metadata={op_name="jit(step)/constant(99)"}
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%inner_body (d: (s32[], f32[8])) -> (s32[], f32[8]) {
  %d = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%d), index=1
  %reduced = (f32[8]{0}, /*index=1*/f32[]) all-reduce(%x, %n), to_apply=%sum
  %wide = f32[32]{0} fusion(%x), kind=kCustom, calls=%fused
}

%outer_body (e: (s32[], f32[8])) -> (s32[], f32[8]) {
  %e = (s32[], f32[8]{0}) parameter(0)
  %w = (s32[], f32[8]{0}) while(%e), condition=%inner_condition, body=%inner_body
  %begun = ((f32[32]{0}), f32[8]{0}, u32[]) async-start(%y), calls=%asynchronous
  %ended = f32[8]{0} async-done(%begun), calls=%asynchronous
}

%true_branch (f: f32[8]) -> f32[8] {
  %f = f32[8]{0} parameter(0)
  %first = f32[8]{0} collective-permute(%f), source_target_pairs={{0,1}}
  ROOT %second = f32[8]{0} collective-permute(%first), source_target_pairs={{0,1}}
}

%false_branch (g: f32[8]) -> f32[8] {
  %g = f32[8]{0} parameter(0)
  ROOT %third = f32[8]{0} collective-permute(%g), source_target_pairs={{0,1}}
}

%subroutine (h: f32[8]) -> f32[8] {
  %h = f32[8]{0} parameter(0)
  ROOT %choice = f32[8]{0} conditional(%t, %h, %h), branch_computations={%true_branch, %false_branch}
}

%endless (k: f32[]) -> pred[] {
  %k = f32[] parameter(0)
  ROOT %positive = pred[] compare(%k, %k), direction=GT
}

ENTRY %main (m: (s32[], f32[8])) -> f32[8] {
  %m = (s32[], f32[8]{0}) parameter(0)
  %v = (s32[], f32[8]{0}) while(%m), condition=%any, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
  %u = f32[8]{0} call(%z), to_apply=%subroutine
  %start = f32[8]{0} all-reduce-start(%u), to_apply=%sum
  %done = f32[8]{0} all-reduce-done(%start)
  %last = f32[] while(%k), condition=%endless, body=%sum
}
"""


def test_collectives_count_as_often_as_they_run() -> None:
    program = parse(COLLECTIVES)
    counts = {"all-reduce": 5 * 3 + 1, "all-gather": 5 * 3, "reduce-scatter": 5, "collective-permute": 2}
    assert collectives(program) == counts
    assert collectives(program, "outer_body") == {"all-reduce": 3, "all-gather": 3, "reduce-scatter": 1}
    loops = {i.name: program.trips(i) for body in program.computations.values() for i in body if i.opcode == "while"}
    assert loops == {"v": 5, "w": 3, "last": None}


KERNELS = """\
HloModule step, is_scheduled=true

%sliced (p: bf16[6,1000,1000], i: s32[], g: f32[1000,1000]) -> f32[1000,1000] {
  %p = bf16[6,1000,1000]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %g = f32[1000,1000]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %whole = bf16[6,1000,1000]{2,1,0} bitcast(%p)
  %slice = bf16[1,1000,1000]{2,1,0} dynamic-slice(%whole, %i, %zero, %zero), dynamic_slice_sizes={1,1000,1000}
  %row = f32[1000,1000]{1,0} convert(%slice)
  ROOT %added = f32[1000,1000]{1,0} add(%row, %g)
}

%updated (q: f32[6,1000,1000], r: f32[1,1000,1000], j: s32[]) -> f32[6,1000,1000] {
  %q = f32[6,1000,1000]{2,1,0} parameter(0)
  %r = f32[1,1000,1000]{2,1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %written = f32[6,1000,1000]{2,1,0} dynamic-update-slice(%q, %r, %j, %j, %j)
}

%body (t: (s32[], bf16[6,1000,1000], f32[1000,1000])) -> (s32[], bf16[6,1000,1000], f32[1000,1000]) {
  %t = (s32[], bf16[6,1000,1000]{2,1,0}, f32[1000,1000]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %stack = bf16[6,1000,1000]{2,1,0} get-tuple-element(%t), index=1
  %sum = f32[1000,1000]{1,0} get-tuple-element(%t), index=2
  %read = f32[1000,1000]{1,0} fusion(%stack, %n, %sum), kind=kLoop, calls=%sliced, metadata={op_name="layer/add"}
}

ENTRY %main (a: bf16[2000,4000], b: bf16[4000,3000], s: f32[6,1000,1000]) -> bf16[2000,3000] {
  %a = bf16[2000,4000]{1,0} parameter(0)
  %b = bf16[4000,3000]{1,0} parameter(1)
  %s = f32[6,1000,1000]{2,1,0} parameter(2)
  %loop = (s32[], bf16[6,1000,1000]{2,1,0}, f32[1000,1000]{1,0}) while(%z), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %one = f32[1,1000,1000]{2,1,0} bitcast(%s)
  %index = s32[] constant(2)
  %store = f32[6,1000,1000]{2,1,0} fusion(%s, %one, %index), kind=kLoop, calls=%updated
  %product = (bf16[2000,3000]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config={"lhs_contracting_dimensions":["1"]}
  %nothing = f32[2000]{0} custom-call(%a), custom_call_target="Sharding"
  %result = bf16[2000,3000]{1,0} get-tuple-element(%product), index=0
  ROOT %copy.1 = bf16[2000,3000]{0,1} copy(%result)
}
"""  # noqa: E501


def test_kernels_cost_their_bytes_or_their_flops() -> None:
    found = {kernel.name: kernel for kernel in kernels(parse(KERNELS))}
    moved = {
        "read": 6 * (2_000_000 + 4 + 4_000_000 + 4_000_000),  # a slice, its index, the sum before and after
        "store": 4_000_000 + 4 + 4_000_000,  # the update is read and written, the rest stays where it is
        "product": 2 * (2000 * 4000 + 4000 * 3000 + 2000 * 3000),  # without the workspace
        "copy.1": 2 * 2 * 2000 * 3000,
    }
    assert {name: kernel.bytes for name, kernel in found.items()} == moved
    assert {name: kernel.launches for name, kernel in found.items()} == {
        "read": 6,
        "store": 1,
        "product": 1,
        "copy.1": 1,
    }
    assert found["read"].origin == "layer/add"
    assert found["read"].seconds == pytest.approx(moved["read"] / BANDWIDTH + 6 * LAUNCH)
    assert found["product"].flops == 2 * 2000 * 4000 * 3000
    assert found["product"].seconds == pytest.approx(found["product"].flops / PEAK + LAUNCH)
    everything = total(list(found.values()))
    assert (everything.launches, everything.bytes) == (9, sum(moved.values()))
