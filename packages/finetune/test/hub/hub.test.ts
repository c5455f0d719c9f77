import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { downloadModel } from '../../src/hub/hub.js';
import {
  blob,
  CONFIG,
  download,
  expectWeights,
  home,
  hub,
  options,
  refusal,
  resolve,
  root,
  said,
  useHub,
  WEIGHTS,
} from '../support/hub.js';
import { COMMIT, gitHash, REPO, sha256 } from '../support/hub-server.js';

useHub();

/** Announces the whole, sends a part, and hangs up. */
function breakOff(response: ServerResponse, content: Buffer, from: number, to: number): void {
  const range = `bytes ${from}-${content.length - 1}/${content.length}`;
  const length = { 'content-length': content.length - from };
  response.writeHead(from === 0 ? 200 : 206, from === 0 ? length : { ...length, 'content-range': range });
  response.flushHeaders();
  response.write(content.subarray(from, to));
  setTimeout(() => response.destroy(), 50);
}

describe('download', () => {
  it("puts what a run needs into Hugging Face's cache", async () => {
    const folder = await download();
    expect(folder).toBe(join(root(), 'snapshots', COMMIT));
    const names = [
      'config.json',
      'model.safetensors',
      'modeling_minicpmv.py',
      'tokenizer.json',
      'tokenizer_config.json',
    ];
    expect(readdirSync(folder).sort()).toEqual(names);
    expectWeights(folder);
    expect(lstatSync(join(folder, 'model.safetensors')).isSymbolicLink()).toBe(true);
    expect(readFileSync(blob(sha256(WEIGHTS))).equals(WEIGHTS)).toBe(true);
    expect(readFileSync(blob(gitHash(CONFIG)))).toEqual(CONFIG);
    expect(readFileSync(join(root(), 'refs', 'main'), 'utf8')).toBe(COMMIT);
    expect(readdirSync(join(root(), 'blobs')).filter((name) => name.endsWith('.incomplete'))).toEqual([]);
    expect(said).toMatch(/Downloading openbmb\/Tiny-V: 300 kB in .*, 5\/5 files/);
  });

  it('fetches nothing twice', async () => {
    await download();
    hub.requests.length = 0;
    await download({ revision: 'v1.0' });
    expect(hub.requests).toHaveLength(2); // the commit and the list
    expect(readFileSync(join(root(), 'refs', 'v1.0'), 'utf8')).toBe(COMMIT);
  });

  it('goes on behind what an earlier download left', async () => {
    mkdirSync(join(root(), 'blobs'), { recursive: true });
    writeFileSync(`${blob(sha256(WEIGHTS))}.incomplete`, WEIGHTS.subarray(0, 100_001));
    const folder = await download();
    expect(hub.requests).toContain('GET /storage/model.safetensors bytes=100001-');
    expect(hub.requests).not.toContain('GET /storage/model.safetensors');
    expectWeights(folder);
  });

  it('starts again where the server knows no ranges', async () => {
    mkdirSync(join(root(), 'blobs'), { recursive: true });
    writeFileSync(`${blob(sha256(WEIGHTS))}.incomplete`, WEIGHTS.subarray(0, 1000));
    hub.trouble = (_, response, content) => {
      response.writeHead(200, { 'content-length': content.length }).end(content);
      return true;
    };
    expectWeights(await download());
  });

  it('asks for the rest when an answer breaks off', async () => {
    hub.trouble = ({ headers }, response, content) => {
      if (content !== WEIGHTS || headers.range !== undefined) return false;
      breakOff(response, content, 0, 200_000);
      return true;
    };
    expectWeights(await download());
    expect(hub.requests.filter((request) => request.startsWith('GET /storage/model'))).toEqual([
      'GET /storage/model.safetensors',
      'GET /storage/model.safetensors bytes=200000-',
    ]);
  });

  it('waits when the hub is busy', async () => {
    let busy = 2;
    hub.trouble = (_, response, content) => {
      if (content !== WEIGHTS || busy-- <= 0) return false;
      response.writeHead(503).end();
      return true;
    };
    expectWeights(await download());
    expect(busy).toBe(-1);
  });

  it('takes the files asked for, but no pickles', async () => {
    const folder = await download({ allow: ['*.json', 'training*'] });
    expect(existsSync(join(folder, 'assets', 'a.json'))).toBe(true);
    expect(readdirSync(folder)).not.toContain('model.safetensors');
    expect(readdirSync(folder)).not.toContain('training_args.bin');
    expect(said).toContain('notice: left out, because opening pickles can run code: training_args.bin');
    expect(await refusal(download({ allow: ['*.gguf'] }))).toMatch(/for --allow but received \*\.gguf, which none/);
  });
});

describe('a bad answer', () => {
  it('that stays truncated keeps what came', async () => {
    hub.trouble = ({ headers }, response, content) => {
      if (content !== WEIGHTS) return false;
      const from = Number(/\d+/.exec(headers.range ?? '0')![0]);
      breakOff(response, content, from, 70_000);
      return true;
    };
    expect(await refusal(download())).toContain(
      'Expected 300000 bytes for model.safetensors but the answers ended after 70000 of them.',
    );
    hub.trouble = undefined;
    hub.requests.length = 0;
    expectWeights(await download());
    expect(hub.requests.filter((request) => request.includes('/storage/'))).toEqual([
      'GET /storage/model.safetensors bytes=70000-',
    ]);
  });

  it('that ends early without having said how long it is', async () => {
    hub.trouble = (_, response, content) => {
      if (content !== WEIGHTS) return false;
      response.writeHead(200).end(content.subarray(0, 50_000));
      return true;
    };
    expect(await refusal(download())).toContain(
      'Expected 300000 bytes for model.safetensors but the answers ended after 50000 of them.',
    );
    expect(existsSync(join(root(), 'refs'))).toBe(false);
  });

  it('of another size', async () => {
    hub.trouble = (_, response, content) => {
      if (content !== WEIGHTS) return false;
      response.writeHead(200, { 'content-length': 10 }).end('0123456789');
      return true;
    };
    expect(await refusal(download())).toContain(
      'Expected 300000 bytes for model.safetensors but received an answer of 10.',
    );
    hub.trouble = (_, response, content) => {
      if (content !== CONFIG) return false;
      response.writeHead(200).end(`${content} and more`);
      return true;
    };
    const again = download({ cacheDir: join(home, 'b') });
    expect(await refusal(again)).toContain('Expected 31 bytes for config.json but received more.');
    expect(existsSync(join(home, 'b', 'models--openbmb--Tiny-V', 'blobs', `${gitHash(CONFIG)}.incomplete`))).toBe(
      false,
    );
  });

  it.each(['model.safetensors', 'config.json'])('of other content: %s', async (name) => {
    const { content } = hub.files.get(name)!;
    const other = Buffer.from(content);
    other[7]! ^= 1;
    hub.trouble = (_, response, asked) => {
      if (asked !== content) return false;
      response.writeHead(200, { 'content-length': other.length }).end(other);
      return true;
    };
    const [kind, hash] = name === 'config.json' ? ['git hash', gitHash] : ['sha256', sha256];
    const text = await refusal(download());
    expect(text).toContain(`Expected the ${kind} ${hash(content)} for ${name} but received ${hash(other)}.`);
    expect(existsSync(blob(hash(content)))).toBe(false);
    expect(existsSync(`${blob(hash(content))}.incomplete`)).toBe(false);
    expect(existsSync(join(root(), 'snapshots'))).toBe(false);
  });

  it.each([
    ['no list', () => 'please log in'],
    ['a path out of the cache', (entries: object[]) => [{ ...entries[0], path: '../../evil.json' }]],
    ['a hash that is a path', (entries: object[]) => [{ ...entries[1], oid: '../../evil' }]],
  ])('to the question for files: %s', async (_, list) => {
    hub.list = list;
    expect(await refusal(download())).toMatch(/Expected the hub's list of the files .* answered something else/);
    expect(readdirSync(home)).toEqual([]);
  });
});

describe('a refusal', () => {
  it('401: a token is missing, or wrong, or right', async () => {
    hub.token = 'hf_right';
    expect(await refusal(download())).toMatch(/answered 401 .*does not exist, or is private[\s\S]*set HF_TOKEN/);
    vi.stubEnv('HF_TOKEN', 'hf_wrong');
    expect(await refusal(download())).toMatch(/Expected a token that may read openbmb\/Tiny-V for HF_TOKEN.*401/);
    vi.stubEnv('HF_TOKEN', 'hf_right');
    await download();
  });

  it('the token that was stored at login is used', async () => {
    hub.token = 'hf_stored';
    writeFileSync(join(home, 'token'), 'hf_stored\n');
    await download();
  });

  it('403: the model is gated', async () => {
    hub.gated = true;
    expect(await refusal(download())).toMatch(
      /Expected access to openbmb\/Tiny-V .* 403 \(GatedRepo\)[\s\S]*cure: Accept the conditions on http:.*\/openbmb\/Tiny-V, then set HF_TOKEN/,
    );
  });

  it('404: model, revision', async () => {
    expect(await refusal(downloadModel('openbmb/nothing', options))).toMatch(
      /Expected a model of the hub but received openbmb\/nothing: .* answered 404 \(RepoNotFound\)/,
    );
    const text = await refusal(download({ revision: 'v9' }));
    expect(text).toMatch(/Expected a branch, tag or commit of openbmb\/Tiny-V but received v9[\s\S]*at: --revision/);
  });

  it('nobody answers', async () => {
    vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
    expect(await refusal(download())).toMatch(
      /http:\/\/127\.0\.0\.1:9 cannot be reached[\s\S]*HF_ENDPOINT to a mirror/,
    );
  });

  it('HF_HUB_OFFLINE', async () => {
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect(await refusal(resolve(REPO))).toContain('received HF_HUB_OFFLINE and no complete copy');
    expect(hub.requests).toEqual([]);
  });

  it('the disk is too small', async () => {
    hub.list = (entries) =>
      entries.map((entry) => ({ ...entry, lfs: { oid: sha256(WEIGHTS), size: 1e16, pointerSize: 1 } }));
    expect(await refusal(download())).toMatch(/Expected room for 10 PB of openbmb\/Tiny-V but the disk has .* left/);
    expect(readdirSync(join(root(), 'blobs'))).toEqual([]);
  });

  it('only pickles', async () => {
    hub.files.delete('model.safetensors');
    expect(await refusal(download())).toMatch(/weights as safetensors .* only pickles \(training_args\.bin\)/);
  });
});
