/**
 * Speed of `minicpm-finetune serve`. Clients at once beside the same requests one after the other, and how soon a client that leaves
 * makes room: `node packages/lab/src/serve/throughput.mjs --model DIR [--clients 8] [--tokens 64] [--rounds 5]`. DIR is a checkpoint with a tokenizer.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const MAIN = join(dirname(fileURLToPath(import.meta.url)), '../../../finetune/bin/minicpm-finetune.js');

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    clients: { type: 'string', default: '8' },
    tokens: { type: 'string', default: '64' },
    rounds: { type: 'string', default: '5' },
    flag: { type: 'string', multiple: true, default: [] },
  },
});
const clients = Number(values.clients);
const tokens = Number(values.tokens);
const rounds = Number(values.rounds);

/** Starts a server; gives its address and a way to end it. */
async function start(seqs) {
  const words = [MAIN, 'serve', '--model', values.model, '--port', '0', '--json', '--max_num_seqs', `${seqs}`];
  const child = spawn(process.execPath, [...words, ...values.flag], { stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: child.stdout })) {
    const { event, url } = JSON.parse(line);
    if (event !== 'ready') continue;
    const stop = async () => {
      child.kill('SIGTERM');
      await once(child, 'exit');
    };
    return { url, stop };
  }
  throw new Error('the server ended');
}

const ask = (url, text, extra = {}, signal = undefined) =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      messages: [{ role: 'user', content: text }],
      max_tokens: tokens,
      temperature: 0,
      ignore_eos: true,
      ...extra,
    }),
    signal,
  });

const now = () => performance.now() / 1000;
const question = (i) => `Question ${i}: what is it?`;

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

/** Rounds of two requests one after the other, then all at once: what else the machine does disturbs both alike. */
async function throughput() {
  const { url, stop } = await start(clients);
  const answer = async (i) => (await (await ask(url, question(i))).json()).choices[0].message.content;
  const alone = [];
  for (let i = 0; i < clients; i++) alone.push(await answer(i));
  const results = [];
  let same = 0;
  for (let round = 0; round < rounds; round++) {
    const first = now();
    for (const i of [0, 1]) await answer(i);
    const second = now();
    const together = await Promise.all(alone.map((_, i) => answer(i)));
    const third = now();
    same += together.filter((text, i) => text === alone[i]).length;
    const [one, all] = [(2 * tokens) / (second - first), (clients * tokens) / (third - second)];
    results.push({ one, all, ratio: all / one });
  }
  await stop();
  const shown = (key) => Math.round(100 * median(results.map((result) => result[key]))) / 100;
  return {
    one_after_the_other: shown('one'),
    at_once: shown('all'),
    ratio: shown('ratio'),
    ratios: results.map(({ ratio }) => Math.round(100 * ratio) / 100),
    same_text: `${same}/${clients * rounds}`,
  };
}

/** Makes a token with text of its own come every time: a stream tells nothing of one without. */
const TEXT = { stream: true, logit_bias: { 64: 100 } };

/** Reads a stream; `onText` gets the time of each piece with text. */
async function follow(response, onText) {
  const decoder = new TextDecoder();
  for await (const part of response.body) {
    const count = decoder.decode(part).split('"content":"').length - 1;
    if (count > 0) onText(now());
  }
}

/** Tokens' time from a client's leaving to the first token of the one that waits, beyond what that one takes alone. */
async function leaving() {
  const { url, stop } = await start(1);
  const firstToken = async () => {
    const began = now();
    const times = [];
    await follow(await ask(url, question(1), { ...TEXT, max_tokens: 8 }), (time) => times.push(time));
    return times[1] - began; // the first piece is the role
  };
  await firstToken();
  const idle = await firstToken();
  const abort = new AbortController();
  const times = [];
  let left = 0;
  const response = await ask(url, question(0), { ...TEXT, max_tokens: 200 }, abort.signal);
  const waiting = ask(url, question(1), { ...TEXT, max_tokens: 8 });
  await follow(response, (time) => {
    times.push(time);
    if (times.length < 12) return;
    left = now();
    abort.abort();
  }).catch(() => {});
  const seen = [];
  await follow(await waiting, (time) => seen.push(time));
  await stop();
  const token = (times.at(-1) - times[2]) / (times.length - 3);
  const [, first] = seen;
  const round = (value) => Math.round(1000 * value);
  return {
    token_ms: round(token),
    first_token_idle_ms: round(idle),
    first_token_after_leaving_ms: round(first - left),
    tokens_until_free: Math.round((10 * (first - left - idle)) / token) / 10,
  };
}

console.log(
  JSON.stringify({ model: values.model, clients, tokens, ...(await throughput()), ...(await leaving()) }, null, 1),
);
