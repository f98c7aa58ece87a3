"""FLOPs of kernels that XLA does not write itself, and which of them have never run on a card."""

from transformer.planning.hlo import parse
from transformer.planning.kernels import PEAK, kernels
from transformer.planning.products import never_run

B, H, Q, K, E = 3, 8, 128, 192, 64
PROGRAM = """\
HloModule step

%sliced_product (p0: bf16[4,100,50], p1: s32[], p2: bf16[70,50]) -> (bf16[100,70], s8[4096]) {
  %p0 = bf16[4,100,50]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %slice = bf16[1,100,50]{2,1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,100,50}
  %left = bf16[100,50]{1,0} bitcast(%slice)
  %p2 = bf16[70,50]{1,0} parameter(2)
  ROOT %gemm = (bf16[100,70]{1,0}, s8[4096]{0}) custom-call(%left, %p2), custom_call_target="__cublas$lt$matmul", backend_config={"lhs_contracting_dimensions":["1"]}, metadata={op_name="jit(train_step)/jvp(Transformer.loss)/decoder/layers/feed_forward_norm/feed_forward/dot_general"}
}

%part (q0: bf16[100,50]) -> bf16[100,50] {
  ROOT %q0 = bf16[100,50]{1,0} parameter(0)
}

%triton_product (r0: bf16[100,50], r1: bf16[70,50]) -> bf16[100,70] {
  %r0 = bf16[100,50]{1,0} parameter(0)
  %r1 = bf16[70,50]{1,0} parameter(1)
  %inner = bf16[100,50]{1,0} fusion(%r0), kind=kCustom, calls=%part
  ROOT %dot.1 = bf16[100,70]{1,0} dot(%inner, %r1), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

ENTRY %main (q: bf16[3,128,8,64], k: bf16[3,192,8,64], n: s32[3,128], l: f32[3,8,128], s: bf16[4,100,50], w: bf16[70,50]) -> bf16[100,70] {
  %q = bf16[3,128,8,64]{3,2,1,0} parameter(0)
  %k = bf16[3,192,8,64]{3,2,1,0} parameter(1)
  %n = s32[3,128]{1,0} parameter(2)
  %l = f32[3,8,128]{2,1,0} parameter(3)
  %s = bf16[4,100,50]{2,1,0} parameter(4)
  %w = bf16[70,50]{1,0} parameter(5)
  %index = s32[] constant(2)
  %forward = (bf16[3,128,8,64]{3,2,1,0}, f32[3,8,128]{2,1,0}) custom-call(%q, %k, %k, %n, %n), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(step)/layers/attention_forward/pallas_call"}
  %all = (bf16[3,128,8,64]{3,2,1,0}, bf16[3,192,8,64]{3,2,1,0}, bf16[3,192,8,64]{3,2,1,0}) custom-call(%q, %k, %k, %n, %n, /*index=5*/%q, %l, %l), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(step)/attention_backward/pallas_call"}
  %two = (bf16[3,192,8,64]{3,2,1,0}, bf16[3,192,8,64]{3,2,1,0}) custom-call(%q, %k, %k, %n, %n, /*index=5*/%q, %l, %l), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(step)/attention_backward/pallas_call"}
  %one = bf16[3,128,8,64]{3,2,1,0} custom-call(%q, %k, %k, %n, %n, /*index=5*/%q, %l, %l), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="attention_backward_query/pallas_call"}
  %other = f32[3,8,128]{2,1,0} custom-call(%l), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(step)/another/pallas_call"}
  %cudnn = (bf16[3,8,128,64]{3,1,2,0}, f32[3,8,128]{2,1,0}, u8[512]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(step)/dot_product_attention_fwd"}
  %cudnn_gradient = (bf16[3,8,128,64]{3,1,2,0}, bf16[3,8,192,64]{3,1,2,0}, bf16[3,8,192,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k, %l, %q, /*index=5*/%q), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={op_name="jit(step)/dot_product_attention_bwd"}
  %library = (bf16[100,70]{1,0}, s8[4096]{0}) fusion(%s, %index, %w), kind=kCustom, calls=%sliced_product
  %part_of_s = bf16[100,50]{1,0} bitcast(%s)
  ROOT %triton = bf16[100,70]{1,0} fusion(%part_of_s, %w), kind=kCustom, calls=%triton_product
}
"""  # noqa: E501


def test_products_of_attention_and_of_fusions_are_counted() -> None:
    found = {kernel.name: kernel for kernel in kernels(parse(PROGRAM))}
    products = {"forward": 2, "all": 5, "two": 4, "one": 3, "other": 0, "cudnn": 2, "cudnn_gradient": 5}
    expected = {name: number * 2 * B * H * Q * K * E for name, number in products.items()}
    expected |= dict.fromkeys(("library", "triton"), 2 * 100 * 70 * 50)
    assert {name: kernel.flops for name, kernel in found.items()} == expected
    assert all(kernel.seconds > kernel.flops / PEAK for kernel in found.values())
    assert found["library"].opcode == found["triton"].opcode == "product"
    assert found["library"].origin.endswith("feed_forward/dot_general")  # of the product inside the fusion
    assert found["all"].opcode == "attention_backward"
    queries, keys, numbers = 2 * B * Q * H * E, 2 * B * K * H * E, 4 * B * H * Q
    assert found["cudnn"].bytes == 2 * queries + 2 * keys + numbers  # without the workspace
    assert found["library"].bytes == 2 * (100 * 50 + 70 * 50 + 100 * 70) + 4  # a slice, without the workspace


def test_kernels_that_have_not_run_on_a_card_are_named() -> None:
    assert never_run(parse(PROGRAM)) == ["another"]
    without = "\n".join(line for line in PROGRAM.splitlines() if "pallas_call" not in line)
    assert never_run(parse(without)) == []
