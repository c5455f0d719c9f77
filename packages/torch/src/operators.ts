/**
 * The curated list of ATen operators in use. Both the runtime functions and their TypeScript types come from it: see
 * ops.ts.
 *
 * Each entry is the operator's declaration as PyTorch's `native_functions.yaml` has it (arguments nobody here needs, such as
 * layouts and memory formats, are left out at the end). Arguments before `*` are given by position, those after it in a
 * last object: `ops.add(a, b, { alpha: 2 })`. A test compares every entry with libtorch's own schema. Operators of `minicpm::` are this
 * package's own: what native/ registers as minicpm.
 */
export const OPERATORS = {
  // element by element
  add: 'add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor',
  addScalar: 'add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor',
  add_: 'add_.Tensor(Tensor(a!) self, Tensor other, *, Scalar alpha=1) -> Tensor(a!)',
  addScalar_: 'add_.Scalar(Tensor(a!) self, Scalar other, Scalar alpha=1) -> Tensor(a!)',
  sub: 'sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor',
  rsub: 'rsub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor',
  mul: 'mul.Tensor(Tensor self, Tensor other) -> Tensor',
  mulScalar: 'mul.Scalar(Tensor self, Scalar other) -> Tensor',
  mul_: 'mul_.Tensor(Tensor(a!) self, Tensor other) -> Tensor(a!)',
  mulScalar_: 'mul_.Scalar(Tensor(a!) self, Scalar other) -> Tensor(a!)',
  div: 'div.Tensor(Tensor self, Tensor other) -> Tensor',
  divScalar: 'div.Scalar(Tensor self, Scalar other) -> Tensor',
  div_: 'div_.Tensor(Tensor(a!) self, Tensor other) -> Tensor(a!)',
  divScalar_: 'div_.Scalar(Tensor(a!) self, Scalar other) -> Tensor(a!)',
  neg: 'neg(Tensor self) -> Tensor',
  abs: 'abs(Tensor self) -> Tensor',
  sign: 'sign(Tensor self) -> Tensor',
  powScalar: 'pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor',
  powBase: 'pow.Scalar(Scalar self, Tensor exponent) -> Tensor',
  square: 'square(Tensor self) -> Tensor',
  sqrt: 'sqrt(Tensor self) -> Tensor',
  rsqrt: 'rsqrt(Tensor self) -> Tensor',
  reciprocal: 'reciprocal(Tensor self) -> Tensor',
  exp: 'exp(Tensor self) -> Tensor',
  log: 'log(Tensor self) -> Tensor',
  sin: 'sin(Tensor self) -> Tensor',
  cos: 'cos(Tensor self) -> Tensor',
  tanh: 'tanh(Tensor self) -> Tensor',
  sigmoid: 'sigmoid(Tensor self) -> Tensor',
  silu: 'silu(Tensor self) -> Tensor',
  relu: 'relu(Tensor self) -> Tensor',
  floor: 'floor(Tensor self) -> Tensor',
  round: 'round(Tensor self) -> Tensor',
  maximum: 'maximum(Tensor self, Tensor other) -> Tensor',
  minimum: 'minimum(Tensor self, Tensor other) -> Tensor',
  clamp: 'clamp(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor',
  addcmul_: 'addcmul_(Tensor(a!) self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor(a!)',
  addcdiv_: 'addcdiv_(Tensor(a!) self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor(a!)',
  lerp_: 'lerp_.Scalar(Tensor(a!) self, Tensor end, Scalar weight) -> Tensor(a!)',
  softplus: 'softplus(Tensor self, Scalar beta=1, Scalar threshold=20) -> Tensor',
  siluBackward: 'silu_backward(Tensor grad_output, Tensor self) -> Tensor',

  // comparisons and masks
  eq: 'eq.Tensor(Tensor self, Tensor other) -> Tensor',
  eqScalar: 'eq.Scalar(Tensor self, Scalar other) -> Tensor',
  ne: 'ne.Tensor(Tensor self, Tensor other) -> Tensor',
  neScalar: 'ne.Scalar(Tensor self, Scalar other) -> Tensor',
  lt: 'lt.Tensor(Tensor self, Tensor other) -> Tensor',
  ltScalar: 'lt.Scalar(Tensor self, Scalar other) -> Tensor',
  le: 'le.Tensor(Tensor self, Tensor other) -> Tensor',
  leScalar: 'le.Scalar(Tensor self, Scalar other) -> Tensor',
  gt: 'gt.Tensor(Tensor self, Tensor other) -> Tensor',
  gtScalar: 'gt.Scalar(Tensor self, Scalar other) -> Tensor',
  ge: 'ge.Tensor(Tensor self, Tensor other) -> Tensor',
  geScalar: 'ge.Scalar(Tensor self, Scalar other) -> Tensor',
  logicalAnd: 'logical_and(Tensor self, Tensor other) -> Tensor',
  logicalOr: 'logical_or(Tensor self, Tensor other) -> Tensor',
  logicalNot: 'logical_not(Tensor self) -> Tensor',
  isfinite: 'isfinite(Tensor self) -> Tensor',
  where: 'where.self(Tensor condition, Tensor self, Tensor other) -> Tensor',
  maskedFill: 'masked_fill.Scalar(Tensor self, Tensor mask, Scalar value) -> Tensor',
  maskedFill_: 'masked_fill_.Scalar(Tensor(a!) self, Tensor mask, Scalar value) -> Tensor(a!)',
  equal: 'equal(Tensor self, Tensor other) -> bool',
  bitwiseAndScalar: 'bitwise_and.Scalar(Tensor self, Scalar other) -> Tensor',
  bitwiseOr: 'bitwise_or.Tensor(Tensor self, Tensor other) -> Tensor',
  bitwiseRightShift: 'bitwise_right_shift.Tensor_Scalar(Tensor self, Scalar other) -> Tensor',
  bitwiseLeftShift: 'bitwise_left_shift.Tensor_Scalar(Tensor self, Scalar other) -> Tensor',

  // reductions
  sumAll: 'sum(Tensor self, *, ScalarType? dtype=None) -> Tensor',
  sum: 'sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor',
  meanAll: 'mean(Tensor self, *, ScalarType? dtype=None) -> Tensor',
  mean: 'mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor',
  maxAll: 'max(Tensor self) -> Tensor',
  minAll: 'min(Tensor self) -> Tensor',
  amax: 'amax(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor',
  amin: 'amin(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor',
  any: 'any(Tensor self) -> Tensor',
  all: 'all(Tensor self) -> Tensor',
  argmax: 'argmax(Tensor self, int? dim=None, bool keepdim=False) -> Tensor',
  logsumexp: 'logsumexp(Tensor self, int[1] dim, bool keepdim=False) -> Tensor',
  cumsum: 'cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor',
  linalgVectorNorm:
    'linalg_vector_norm(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor',

  sumOfSquares: 'minicpm::sum_of_squares(Tensor[] tensors) -> Tensor',

  // products
  matmul: 'matmul(Tensor self, Tensor other) -> Tensor',
  mm: 'mm(Tensor self, Tensor mat2) -> Tensor',
  bmm: 'bmm(Tensor self, Tensor mat2) -> Tensor',
  addmm: 'addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor',
  addmm_: 'addmm_(Tensor(a!) self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor(a!)',
  outer: 'outer(Tensor self, Tensor vec2) -> Tensor',
  linear: 'minicpm::linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor',

  // layers and losses
  embedding:
    'embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, bool sparse=False) -> Tensor',
  conv2d:
    'conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=[1,1], SymInt[2] padding=[0,0], SymInt[2] dilation=[1,1], SymInt groups=1) -> Tensor',
  layerNorm:
    'layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05, bool cudnn_enable=True) -> Tensor',
  rmsNorm: 'minicpm::rms_norm(Tensor x, Tensor weight, float eps, float offset=0.) -> Tensor',
  rotary: 'minicpm::rotary(Tensor x, Tensor table) -> Tensor',
  swiglu: 'minicpm::swiglu(Tensor gate, Tensor up) -> Tensor',
  attention:
    'minicpm::attention(Tensor query, Tensor key, Tensor value, *, int[]? lengths=None, int[]? query_lengths=None, bool is_causal=False) -> Tensor',
  gelu: 'minicpm::gelu(Tensor x, *, str approximate="none") -> Tensor',
  geluMlp:
    'minicpm::gelu_mlp(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, float eps, bool tanh) -> Tensor',
  dropout: 'minicpm::dropout(Tensor x, float p) -> Tensor',
  rowsLinear:
    'minicpm::rows_linear(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor? scales=None, bool together=False, bool wide=False) -> Tensor',
  quantizeRows: 'minicpm::quantize_rows(Tensor weight) -> (Tensor, Tensor)',
  rowsStandAlone: 'minicpm::rows_stand_alone(Tensor like) -> bool',
  rowsRmsNorm: 'minicpm::rows_rms_norm(Tensor x, Tensor weight, float eps, float offset=0) -> Tensor',
  rowsSwiglu: 'minicpm::rows_swiglu(Tensor gate, Tensor up) -> Tensor',
  rowsAdd: 'minicpm::rows_add(Tensor x, Tensor y, float alpha) -> Tensor',
  rowsLowRank_:
    'minicpm::rows_low_rank_(Tensor(a!) y, Tensor x, int[] places, Tensor[] factors, float[] scalings) -> Tensor(a!)',
  rowsArgmax: 'minicpm::rows_argmax(Tensor row) -> int',
  rowsMlp:
    'minicpm::rows_mlp(Tensor x, Tensor norm, float eps, float offset, Tensor[] weights, Tensor?[] biases, Tensor?[] scales, float scale, int[] places, Tensor[] factors, float[] scalings) -> Tensor',
  decodeLayers:
    'minicpm::decode_layers(Tensor x, Tensor table, Tensor[] caches, int[] lengths, Tensor[] norms, Tensor?[] head_norms, float eps, float offset, Tensor[] weights, Tensor?[] biases, Tensor?[] scales, float scale, int[] places, Tensor[] factors, float[] scalings) -> Tensor',
  decodeAttention:
    'minicpm::decode_attention(Tensor query, Tensor key, Tensor value, Tensor table, Tensor[] caches, int[] lengths) -> Tensor',
  gatedDeltaRule:
    'minicpm::gated_delta_rule(Tensor query, Tensor key, Tensor value, Tensor decay, Tensor beta, Tensor(a!)[] states, *, int[]? lengths=None) -> Tensor',
  causalConv1dSilu:
    'minicpm::causal_conv1d_silu(Tensor x, Tensor weight, Tensor(a!)[] states, *, int[]? lengths=None) -> Tensor',
  softmax: 'softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor',
  logSoftmax: 'log_softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor',
  scaledDotProductAttention:
    'scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0., bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor',
  crossEntropyLoss:
    'cross_entropy_loss(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100, float label_smoothing=0.) -> Tensor',
  crossEntropy_: 'minicpm::cross_entropy_(Tensor(a!) logits, Tensor target, *, Tensor? scale=None) -> Tensor',
  upsampleBicubic2dAa:
    '_upsample_bicubic2d_aa(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None) -> Tensor',

  // shapes
  reshape: 'reshape(Tensor(a) self, SymInt[] shape) -> Tensor(a)',
  view: 'view(Tensor(a) self, SymInt[] size) -> Tensor(a)',
  transpose: 'transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)',
  t: 't(Tensor(a) self) -> Tensor(a)',
  permute: 'permute(Tensor(a) self, int[] dims) -> Tensor(a)',
  squeeze: 'squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)',
  unsqueeze: 'unsqueeze(Tensor(a) self, int dim) -> Tensor(a)',
  expand: 'expand(Tensor(a) self, SymInt[] size) -> Tensor(a)',
  flatten: 'flatten.using_ints(Tensor(a) self, int start_dim=0, int end_dim=-1) -> Tensor(a)',
  contiguous: 'contiguous(Tensor(a) self) -> Tensor(a)',
  cat: 'cat(Tensor[] tensors, int dim=0) -> Tensor',
  stack: 'stack(Tensor[] tensors, int dim=0) -> Tensor',
  split: 'split.Tensor(Tensor(a) self, SymInt split_size, int dim=0) -> Tensor[]',
  splitWithSizes: 'split_with_sizes(Tensor(a) self, SymInt[] split_sizes, int dim=0) -> Tensor[]',
  chunk: 'chunk(Tensor(a) self, int chunks, int dim=0) -> Tensor[]',
  unbind: 'unbind.int(Tensor(a) self, int dim=0) -> Tensor[]',
  select: 'select.int(Tensor(a) self, int dim, SymInt index) -> Tensor(a)',
  slice: 'slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor(a)',
  narrow: 'narrow(Tensor(a) self, int dim, SymInt start, SymInt length) -> Tensor(a)',
  repeat: 'repeat(Tensor self, SymInt[] repeats) -> Tensor',
  repeatInterleave: 'repeat_interleave.self_int(Tensor self, SymInt repeats, int? dim=None) -> Tensor',
  flip: 'flip(Tensor self, int[] dims) -> Tensor',
  constantPadNd: 'constant_pad_nd(Tensor self, SymInt[] pad, Scalar value=0) -> Tensor',
  tril: 'tril(Tensor self, SymInt diagonal=0) -> Tensor',
  triu: 'triu(Tensor self, SymInt diagonal=0) -> Tensor',

  // picking and placing
  indexSelect: 'index_select(Tensor self, int dim, Tensor index) -> Tensor',
  index: 'index.Tensor(Tensor self, Tensor?[] indices) -> Tensor',
  indexPut: 'index_put(Tensor self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor',
  indexCopy: 'index_copy(Tensor self, int dim, Tensor index, Tensor source) -> Tensor',
  indexCopy_: 'index_copy_(Tensor(a!) self, int dim, Tensor index, Tensor source) -> Tensor(a!)',
  indexAdd_: 'index_add_(Tensor(a!) self, int dim, Tensor index, Tensor source, *, Scalar alpha=1) -> Tensor(a!)',
  gather: 'gather(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor',
  scatter: 'scatter.src(Tensor self, int dim, Tensor index, Tensor src) -> Tensor',
  scatterValue: 'scatter.value(Tensor self, int dim, Tensor index, Scalar value) -> Tensor',
  nonzero: 'nonzero(Tensor self) -> Tensor',
  topk: 'topk(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor, Tensor)',
  sort: 'sort(Tensor self, int dim=-1, bool descending=False) -> (Tensor, Tensor)',
  unique:
    '_unique2(Tensor self, bool sorted=True, bool return_inverse=False, bool return_counts=False) -> (Tensor, Tensor, Tensor)',
  bucketize: 'bucketize.Tensor(Tensor self, Tensor boundaries, *, bool out_int32=False, bool right=False) -> Tensor',

  // copies, types, devices
  clone: 'clone(Tensor self) -> Tensor',
  detach: 'detach(Tensor(a) self) -> Tensor(a)',
  to: 'to.dtype(Tensor(a) self, ScalarType dtype, bool non_blocking=False, bool copy=False) -> Tensor(a)',
  toDevice:
    'to.device(Tensor(a) self, Device device, ScalarType dtype, bool non_blocking=False, bool copy=False) -> Tensor(a)',
  viewDtype: 'view.dtype(Tensor(a) self, ScalarType dtype) -> Tensor(a)',
  pinMemory: 'pin_memory(Tensor(a) self, Device? device=None) -> Tensor(a)',
  copy_: 'copy_(Tensor(a!) self, Tensor src, bool non_blocking=False) -> Tensor(a!)',
  zero_: 'zero_(Tensor(a!) self) -> Tensor(a!)',
  fill_: 'fill_.Scalar(Tensor(a!) self, Scalar value) -> Tensor(a!)',

  // creation
  zeros: 'zeros(SymInt[] size, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  ones: 'ones(SymInt[] size, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  full: 'full(SymInt[] size, Scalar fill_value, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  empty:
    'empty.memory_format(SymInt[] size, *, ScalarType? dtype=None, Device? device=None, bool? pin_memory=None) -> Tensor',
  arange:
    'arange.start_step(Scalar start, Scalar end, Scalar step=1, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  eye: 'eye(SymInt n, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  zerosLike: 'zeros_like(Tensor self, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  onesLike: 'ones_like(Tensor self, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  emptyLike: 'empty_like(Tensor self, *, ScalarType? dtype=None, Device? device=None) -> Tensor',

  // random
  rand: 'rand(SymInt[] size, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  randn: 'randn(SymInt[] size, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  randint:
    'randint.low(SymInt low, SymInt high, SymInt[] size, *, ScalarType? dtype=None, Device? device=None) -> Tensor',
  multinomial: 'multinomial(Tensor self, SymInt num_samples, bool replacement=False) -> Tensor',
  normal_: 'normal_(Tensor(a!) self, float mean=0., float std=1.) -> Tensor(a!)',
  uniform_: 'uniform_(Tensor(a!) self, float from=0., float to=1.) -> Tensor(a!)',

  roundStochastically_:
    'minicpm::round_stochastically_(Tensor(a!) target, Tensor values, int seed, int start, Tensor? rows=None, int width=0) -> Tensor(a!)',

  ggmlQuantize: 'minicpm::ggml_quantize(Tensor values, str type) -> Tensor',

  // many tensors at once
  fusedAdamw_:
    '_fused_adamw_(Tensor(a!)[] self, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, Tensor(d!)[] exp_avg_sqs, Tensor(e!)[] max_exp_avg_sqs, Tensor[] state_steps, *, float lr, float beta1, float beta2, float weight_decay, float eps, bool amsgrad, bool maximize, Tensor? grad_scale=None, Tensor? found_inf=None) -> ()',
  foreachNorm: '_foreach_norm.Scalar(Tensor[] self, Scalar ord=2, ScalarType? dtype=None) -> Tensor[]',
  foreachMul_: '_foreach_mul_.Scalar(Tensor(a!)[] self, Scalar scalar) -> ()',
  foreachAddScalar_: '_foreach_add_.Scalar(Tensor(a!)[] self, Scalar scalar) -> ()',
  foreachAddTensor_: '_foreach_add_.Tensor(Tensor(a!)[] self, Tensor other, *, Scalar alpha=1) -> ()',
  foreachAdd_: '_foreach_add_.List(Tensor(a!)[] self, Tensor[] other, *, Scalar alpha=1) -> ()',
  foreachCopy_: '_foreach_copy_(Tensor(a!)[] self, Tensor[] src, bool non_blocking=False) -> ()',
} as const;

export type OperatorName = keyof typeof OPERATORS;
