/**
 * One rank of the group that ranks.ts checks. `node rank-of-group.js MODE DEVICE`, with RANK, WORLD_SIZE and MASTER_PORT.
 * Prints a line of JSON for each finding. Its numbers are made so that sums depend on the order of the ranks.
 */
import {
  deviceMemory,
  type Group,
  joinGroup,
  ops,
  Store,
  scope,
  synchronize,
  type Tensor,
} from '@minicpm-finetune/torch';

const [mode, device] = process.argv.slice(2) as [keyof typeof MODES, string];
const [rank, size, port] = [process.env.RANK, process.env.WORLD_SIZE, process.env.MASTER_PORT].map(Number) as [
  number,
  number,
  number,
];
const LISTENING = 3;
const TIMEOUT = 60_000;
/** Numbers of a share that takes several pieces to be summed. */
const LONG = 9_000_001;
const MEGABYTES = 256;

export interface Finding {
  readonly what: string;
  readonly ok: boolean;
  readonly found?: string;
  readonly seconds?: number;
}

const say = (finding: Finding): void => console.log(JSON.stringify(finding));

/** Numbers of a rank, on the CPU, of both signs; in float32 their magnitudes go from e^-9 to e^9. */
const numbersOf = (of: number, count: number, dtype: 'float32' | 'bfloat16' | 'float16' | 'int64'): Tensor => {
  const places = ops.arange(0, count, 1, { dtype: 'float32' });
  const signs = ops.sin(ops.addScalar(ops.mulScalar(places, 0.37), of));
  if (dtype !== 'float32') return ops.to(ops.mulScalar(signs, 100), dtype);
  return ops.mul(signs, ops.exp(ops.mulScalar(ops.sin(ops.addScalar(places, 2 * of)), 9)));
};

function gathers(group: Group): void {
  for (const dtype of ['float32', 'bfloat16', 'int64'] as const)
    for (const count of [0, 1, 1000, 1 << 21])
      scope(() => {
        const whole = ops.zeros([size * count], { dtype, device });
        group.gather(whole, ops.toDevice(numbersOf(rank, count, dtype), device, dtype), `${dtype} ${count}`).wait();
        const want = ops.cat(Array.from({ length: size }, (_, r) => numbersOf(r, count, dtype)));
        say({ what: `gather ${dtype} ${count}`, ok: Boolean(ops.equal(ops.toDevice(whole, 'cpu', dtype), want)) });
      });
}

/** In place, as weights are gathered that stay whole. */
function gathersInPlace(group: Group): void {
  scope(() => {
    const whole = ops.zeros([size * 100], { device });
    const own = ops.narrow(whole, 0, rank * 100, 100);
    ops.copy_(own, ops.toDevice(numbersOf(rank, 100, 'float32'), device, 'float32'));
    group.gather(whole, own, 'in place').wait();
    const want = ops.cat(Array.from({ length: size }, (_, r) => numbersOf(r, 100, 'float32')));
    say({ what: 'gather in place', ok: Boolean(ops.equal(ops.toDevice(whole, 'cpu', 'float32'), want)) });
  });
}

/** The sums of the CPU, one rank after the other: the device has to give their bits. */
function sums(group: Group): void {
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const)
    for (const count of [1, 1000, LONG])
      scope(() => {
        const whole = numbersOf(rank, size * count, dtype);
        const sum = ops.ones([count], { device });
        group.scatterAdd(sum, ops.toDevice(whole, device, dtype), `${dtype} ${count}`).wait();
        const want = ops.ones([count]);
        for (let r = 0; r < size; r++)
          scope(() =>
            ops.add_(want, ops.to(ops.narrow(numbersOf(r, size * count, dtype), 0, rank * count, count), 'float32')),
          );
        say({
          what: `scatterAdd ${dtype} ${count}`,
          ok: Boolean(ops.equal(ops.toDevice(sum, 'cpu', 'float32'), want)),
        });
      });
}

/** Rank s sends s + 2 r rows to rank r: values on the device, their ids on the host. */
function rows(group: Group): void {
  scope(() => {
    const rowsOf = (from: number, to: number): number => from + 2 * to;
    const made = (r: number, where: string): Tensor =>
      ops.full([rowsOf(rank, r), 3], 10 * rank + r, { dtype: 'float32', device: where });
    const room = (s: number, where: string): Tensor =>
      ops.zeros([rowsOf(s, rank), 3], { dtype: 'float32', device: where });
    const ranks = Array.from({ length: size }, (_, r) => r);
    const [theirs, hosts] = [ranks.map((s) => room(s, device)), ranks.map((s) => room(s, 'cpu'))];
    const pending = [
      group.alltoall(ranks.map((r) => made(r, device)), theirs, 'values'), // biome-ignore format: beside the other
      group.alltoall(ranks.map((r) => made(r, 'cpu')), hosts, 'ids'), // biome-ignore format: beside the other
    ];
    for (const one of pending) one.wait();
    const right = (tensors: readonly Tensor[]): boolean =>
      tensors.every((tensor, s) => tensor.toNumbers().every((value) => value === 10 * s + rank));
    say({ what: 'alltoall', ok: right(theirs) && right(hosts) });
  });
}

/** A gather comes after what the device was asked to do before, and its result is there for what comes next. */
function order(group: Group): void {
  scope(() => {
    let product = ops.ones([2048, 2048], { device });
    for (let i = 0; i < 8; i++) product = scope(() => ops.mulScalar(ops.matmul(product, product), 1 / 2048));
    const whole = ops.zeros([size * 2048 * 2048], { device });
    const pending = group.gather(whole, ops.reshape(product, [-1]), 'a product');
    pending.wait();
    say({ what: 'order', ok: ops.sumAll(whole).item() === size * 2048 * 2048 });
  });
}

/** Memory and speed over many operations. */
function repeated(group: Group): void {
  scope(() => {
    const count = (MEGABYTES << 20) / 4 / size;
    const [whole, share] = [ops.zeros([size * count], { device }), ops.ones([count], { device })];
    const sum = ops.zeros([count], { device });
    const round = (): void => {
      group.gather(whole, share, 'round').wait();
      group.scatterAdd(sum, whole, 'round').wait();
    };
    round();
    if (device !== 'cpu') synchronize(device);
    const taken = (): number => (device === 'cpu' ? 0 : deviceMemory(device).allocated);
    const [before, started] = [taken(), performance.now()];
    const rounds = 4;
    for (let i = 0; i < rounds; i++) round();
    const seconds = (performance.now() - started) / 1000 / rounds;
    const more = taken() - before;
    const found = `a gather and a scatterAdd of ${MEGABYTES} MiB take ${(1000 * seconds).toFixed(0)} ms`;
    say({ what: 'repeated', ok: more === 0 && ops.sumAll(sum).item() === (rounds + 1) * size * count, found });
    const small = performance.now();
    for (let i = 0; i < 100; i++)
      group.gather(ops.narrow(whole, 0, 0, size * 16), ops.narrow(share, 0, 0, 16), 'small').wait();
    say({ what: 'small', ok: true, found: `one of ${64} bytes ${(10 * (performance.now() - small)).toFixed(0)} µs` });
  });
}

/** What an operation that cannot succeed says. */
function failing(what: string, wanted: RegExp, body: () => void): void {
  const started = performance.now();
  let message = 'nothing';
  try {
    body();
  } catch (error) {
    ({ message } = error as Error);
  }
  say({ what, ok: wanted.test(message), found: message, seconds: (performance.now() - started) / 1000 });
}

const MODES = {
  operations(group: Group): void {
    gathers(group);
    gathersInPlace(group);
    sums(group);
    rows(group);
    order(group);
    repeated(group);
  },
  sizes(group: Group): void {
    const wanted = /same operation on all ranks but rank \d is at gather block 3 \(\d+ bytes to rank/;
    const count = 10 * (rank + 1);
    failing('sizes', wanted, () =>
      scope(() =>
        group.gather(ops.zeros([size * count], { device }), ops.zeros([count], { device }), 'block 3').wait(),
      ),
    );
  },
  /** The last rank is killed while a gather of a gigabyte is under way. */
  killed(group: Group): void {
    const count = 2 ** 28 / size;
    scope(() => {
      const [whole, share] = [ops.zeros([size * count], { device }), ops.ones([count], { device })];
      group.gather(ops.narrow(whole, 0, 0, size), ops.narrow(share, 0, 0, 1), 'a first one').wait();
      const pending = group.gather(whole, share, 'block 7');
      if (rank === size - 1) setTimeout(() => process.kill(process.pid, 'SIGKILL'), 100);
      if (rank === size - 1) return;
      failing('killed', /Expected rank 1 at gather (block 7|a second one) but its connection is closed/, () => {
        pending.wait();
        for (;;) group.gather(whole, share, 'a second one').wait(); // the first one was faster than the signal
      });
    });
  },
};

const address = { host: '127.0.0.1', port, timeout: TIMEOUT };
const store = new Store({ ...address, server: rank === 0, ...(rank === 0 && { listening: LISTENING }) });
const onDevice = device === 'cpu' ? {} : { device };
const group = joinGroup({ store, name: 'world', rank, size, timeout: TIMEOUT, ...onDevice });
MODES[mode](group);
if (mode === 'operations') group.barrier('the end');
if (mode === 'killed' && rank === size - 1) await new Promise((resolve) => setTimeout(resolve, TIMEOUT));
group[Symbol.dispose]();
store.close();
