/** libtorch for Node: the public surface of this package. */
export * from './autograd.js';
export * from './create.js';
export * from './device.js';
export { DTYPES, type DType, dtypeOfSafetensors, isFloat } from './dtype.js';
export * from './group.js';
export * from './nn.js';
export { type OperatorListener, type Ops, ops, traceOperators } from './ops.js';
export * from './optim.js';
export * from './process.js';
export * from './random.js';
export * from './safetensors.js';
export * from './safetensors-write.js';
export { keep, scope } from './scope.js';
export * from './storage.js';
export * from './store.js';
export { OutOfMemoryError, Tensor, TorchError, type TypedArray } from './tensor.js';
export * from './transfer.js';
export * from './watchdog.js';
