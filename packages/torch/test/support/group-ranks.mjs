/** One rank of a group under test: `node group-ranks.mjs MODE[,MODE …]`. It prints JSON lines. With GROUP_NCCL that library moves tensors. */
import { fromTypedArray, joinGroup, noGrad, ops, Store, scope } from '../../dist/index.js';

const rank = Number(process.env.RANK);
const size = Number(process.env.WORLD_SIZE);
const mode = process.argv[2];
/** Milliseconds that ranks wait for others; their processes take longer to start on a busy machine, so they meet at the store first. */
const timeout = { missing: 1500, late: 1500 }[mode] ?? 60_000;
const nccl = process.env.GROUP_NCCL;
const join = () => joinGroup({ store, name: 'world', rank, size, timeout, ...(nccl && { device: 'cpu', nccl }) });
const say = (value) => console.log(JSON.stringify(value));
const failing = (fn) => {
  const started = performance.now();
  try {
    fn();
    say({ error: null });
  } catch (error) {
    say({ error: error.message, seconds: (performance.now() - started) / 1000 });
  }
};

const address = { host: '127.0.0.1', port: Number(process.env.MASTER_PORT) };
const store = new Store({ ...address, server: rank === 0, timeout: 60_000, ...(rank === 0 ? { listening: 3 } : {}) });

/** Numbers that float16 and bfloat16 hold exactly, different on each rank. */
const numbers = (count, by = rank) => Float32Array.from({ length: count }, (_, i) => ((i * 7 + by * 3) % 32) - 8);
const of = (values, dtype) => ops.to(fromTypedArray(values, [values.length]), dtype);

function operations(group) {
  for (const dtype of ['float32', 'bfloat16', 'float16', 'float64', 'int64', 'uint8', 'bool']) {
    for (const count of [0, 1, 64, 1000]) {
      scope(() => {
        const all = Float32Array.from(
          { length: size * count },
          (_, i) => numbers(count, Math.floor(i / count))[i % count],
        );
        const whole = ops.zeros([size * count], { dtype });
        group.gather(whole, of(numbers(count), dtype), `${dtype} ${count}`).wait();
        if (!ops.equal(whole, of(all, dtype))) say({ wrong: 'gather', dtype, count });
        if (!dtype.includes('float') || dtype === 'float64') return;
        const sum = ops.ones([count], { dtype: 'float32' });
        group.scatterAdd(sum, of(numbers(size * count), dtype), `${dtype} ${count}`).wait();
        const want = Float32Array.from({ length: count }, (_, i) =>
          Array.from({ length: size }, (_, r) => numbers(size * count, r)[rank * count + i]).reduce((a, b) => a + b, 1),
        );
        if (!ops.equal(sum, fromTypedArray(want, [count]))) say({ wrong: 'scatterAdd', dtype, count });
      });
    }
  }
}

function unequal(group) {
  scope(() => {
    // rank s sends s + 2 r numbers to rank r
    const outgoing = Array.from({ length: size }, (_, r) =>
      ops.full([rank + 2 * r], 10 * rank + r, { dtype: 'float32' }),
    );
    const incoming = Array.from({ length: size }, (_, s) => ops.zeros([s + 2 * rank], { dtype: 'float32' }));
    group.alltoall(outgoing, incoming, 'rows').wait();
    say(incoming.map((tensor) => tensor.toNumbers()));
  });
}

/** Sums whose bits depend on the order, through several messages: they have to be those of one process. */
function bits(group) {
  scope(() => {
    const share = 4_500_000;
    const places = ops.arange(0, size * share, 1, { dtype: 'float32' });
    const part = (r) => scope(() => ops.sin(ops.addScalar(places, 3 * r)));
    const sum = ops.zeros([share], { dtype: 'float32' });
    group.scatterAdd(sum, part(rank), 'bits').wait();
    const want = ops.zeros([share], { dtype: 'float32' });
    noGrad(() => {
      for (let r = 0; r < size; r++) scope(() => ops.add_(want, ops.narrow(part(r), 0, rank * share, share)));
    });
    say({ equal: Boolean(ops.equal(sum, want)) });
  });
}

function inTheBackground(group) {
  const pending = [];
  const tensors = [];
  for (let i = 0; i < 8; i++) {
    const share = ops.full([1 << 20], rank + i, { dtype: 'float32' });
    const whole = ops.zeros([size << 20], { dtype: 'float32' });
    tensors.push(share, whole);
    pending.push(group.gather(whole, share, `gather ${i}`));
  }
  const before = pending[0].done;
  for (const operation of pending) operation.wait();
  say({
    before,
    sums: tensors.filter((_, i) => i % 2 === 1).map((whole) => ops.sumAll(whole).item()),
    done: pending.map(({ done }) => done),
  });
  for (const tensor of tensors) tensor.dispose();
}

const MODES = {
  operations: (group) => {
    operations(group);
    say({
      sum: group.sum([rank, 0.5], 'sum'),
      max: group.max([rank, -rank], 'max'),
      all: group.exchange([rank], 'all').map((v) => [...v]),
    });
    group.barrier('end');
  },
  unequal,
  bits,
  background: inTheBackground,
  sizes: (group) => {
    const count = rank === 1 ? 20 : 10;
    failing(() => scope(() => group.gather(ops.zeros([size * count]), ops.zeros([count]), 'block 3').wait()));
    failing(() => group.barrier('after'));
  },
  alone: (group) => {
    failing(() => scope(() => group.gather(ops.zeros([size * 10]), ops.zeros([10]), 'block 3').wait()));
  },
  another: (group) => {
    failing(() => {
      if (rank === 1) group.sum([1], 'the norm');
      else group.barrier('the checkpoint');
    });
  },
  killed: (group) => {
    if (rank === size - 1) process.kill(process.pid, 'SIGKILL');
    failing(() => group.barrier('step 5'));
  },
  /** Killed in the middle of a gather of several messages: sends have begun that nobody reads. */
  sending: (group) => {
    const [whole, share] = [ops.zeros([size * 2 ** 25]), ops.ones([2 ** 25])];
    const pending = group.gather(whole, share, 'block 3');
    if (rank === size - 1)
      return new Promise(() => setTimeout(() => process.kill(process.pid, 'SIGKILL'), Number(process.env.DELAY)));
    failing(() => {
      pending.wait();
      for (;;) group.gather(whole, share, 'block 4').wait(); // the first one was faster than the signal
    });
    whole.dispose();
    share.dispose();
  },
  /** Rank 1 is there until rank 0 has been told that it does not come. */
  late: async (group) => {
    if (rank === 0) failing(() => group.barrier('step 7'));
    if (rank === 0) store.set('told', 'yes');
    while (store.get('told') === undefined) await new Promise((resolve) => setTimeout(resolve, 20));
  },
  /** `add` tells who came twice. */
  store: (group) => {
    store.set(`word/${rank}`, `of rank ${rank}: 微调`);
    const count = store.add('count', rank + 1);
    group.barrier('set');
    const second = store.clone();
    say({
      words: Array.from({ length: size + 1 }, (_, r) => second.get(`word/${r}`) ?? null),
      least: count >= rank + 1,
      sum: second.add('count', 0),
    });
    second.close();
    group.barrier('read');
  },
};

if (mode === 'missing' || mode === 'joining') failing(join);
else {
  store.add('started', 1);
  while (store.add('started', 0) < size) await new Promise((resolve) => setTimeout(resolve, 5));
  const group = join();
  for (const one of mode.split(',')) await MODES[one](group);
  group[Symbol.dispose]();
}
store.close();
