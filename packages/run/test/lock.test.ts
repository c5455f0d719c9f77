/** One process owns a file: refused while the holder lives, taken over when it is gone, by one of many. */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type LockHolder, lockHolder, takeLock, UserError } from '../src/index.js';

const MODULE = new URL('../dist/index.js', import.meta.url).href;
let folder: string;
let path: string;
const options = { what: 'runs/a', flag: '--output_dir' };
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lock-'));
  path = join(folder, 'run.lock');
});
afterEach(() => rmSync(folder, { recursive: true }));

const holderIn = (file = path): LockHolder => JSON.parse(readFileSync(file, 'utf8')) as LockHolder;

/** Writes a lock as another process left it. */
function leave(changes: Partial<LockHolder>): void {
  const lock = takeLock(path, options);
  const holder = holderIn();
  lock.release();
  writeFileSync(path, JSON.stringify({ ...holder, id: '0123456789ab0123456789ab', ...changes }));
}

/** A process that takes the lock when it reads a line, prints `taken` or `refused`, and waits. */
interface Starter {
  readonly child: ChildProcess;
  /** It waits for a line, at which it takes the lock. */
  readonly waits: Promise<void>;
  readonly said: Promise<string>;
}

function starter(): Starter {
  const program = `
    import { takeLock } from ${JSON.stringify(MODULE)};
    process.stdin.once('data', () => {
      try { takeLock(${JSON.stringify(path)}, { what: 'runs/a' }); console.log('taken'); }
      catch (error) { console.log('refused ' + error.message); }
    });
    setInterval(() => {}, 1000);
    console.log('waits');`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => (await lines.next()).value;
  const waits = next();
  const said = waits.then(next);
  return { child, waits: waits.then(() => {}), said };
}

async function end({ child }: Starter): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
}

describe('a lock', () => {
  it('is one file, which is gone after its release', () => {
    const lock = takeLock(path, options);
    expect(readdirSync(folder)).toEqual(['run.lock']);
    expect(holderIn()).toMatchObject({ pid: process.pid, host: hostname() });
    expect(lockHolder(path)).toEqual(holderIn());
    lock.release();
    expect(readdirSync(folder)).toEqual([]);
    expect(lockHolder(path)).toBeUndefined();
  });

  it('ends with a using block, also when an error leaves it', () => {
    expect(() => {
      using _ = takeLock(path, options);
      throw new Error('of the work');
    }).toThrow('of the work');
    expect(readdirSync(folder)).toEqual([]);
  });

  it('refuses a second one with who holds it, since when, and what to do', () => {
    using _ = takeLock(path, options);
    let error: unknown;
    try {
      takeLock(path, options);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(UserError);
    const { message, flag, cure } = error as UserError;
    expect(message).toMatch(
      new RegExp(
        `^Expected one process but runs/a is in use by process ${process.pid} on this machine since \\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d UTC \\(`,
      ),
    );
    expect(flag).toBe('--output_dir');
    expect(cure).toContain(`kill ${process.pid}`);
    expect(cure).toContain(`delete ${path}`);
  });

  it('does not remove the lock of another at its release', () => {
    const lock = takeLock(path, options);
    rmSync(path);
    using other = takeLock(path, options);
    lock.release();
    expect(existsSync(other.path)).toBe(true);
  });
});

describe('the holder is gone', () => {
  it('killed with SIGKILL', async () => {
    const holder = starter();
    holder.child.stdin!.write('\n');
    expect(await holder.said).toBe('taken');
    expect(() => takeLock(path, options)).toThrow(`in use by process ${holder.child.pid} on this machine`);
    await end(holder);
    expect(lockHolder(path)).toBeUndefined();
    takeLock(path, options).release();
    expect(readdirSync(folder)).toEqual([]);
  });

  it.each([
    ['its process id was given to another process', { start: '1' }],
    ['the machine was started again', { boot: 'another' }],
  ])('%s', (_, changes) => {
    leave(changes);
    takeLock(path, options).release();
    expect(readdirSync(folder)).toEqual([]);
  });

  it('the folder is a copy of one that is in use', () => {
    using lock = takeLock(path, options);
    const copy = join(folder, 'copy');
    mkdirSync(copy);
    cpSync(path, join(copy, 'run.lock'));
    takeLock(join(copy, 'run.lock'), options).release();
    expect(existsSync(lock.path)).toBe(true);
  });

  it('of eight that take over at once, one succeeds, four times', async () => {
    for (let round = 0; round < 4; round++) {
      leave({ start: '1' });
      const starters = Array.from({ length: 8 }, starter);
      await Promise.all(starters.map(({ waits }) => waits));
      for (const { child } of starters) child.stdin!.write('\n');
      const said = await Promise.all(starters.map((one) => one.said));
      expect(said.filter((text) => text === 'taken')).toHaveLength(1);
      const winner = starters[said.indexOf('taken')]!;
      for (const text of said) if (text !== 'taken') expect(text).toContain(`process ${winner.child.pid} on this`);
      await Promise.all(starters.map(end));
      expect(readdirSync(folder)).toEqual(['run.lock']);
      rmSync(path);
    }
  });

  it('what processes that were killed meanwhile left beside it is swept', () => {
    const id = 'ab0123456789ab0123456789';
    leave({ start: '1' });
    const dead = readFileSync(path);
    for (const name of [`.${id}`, `.${id}.tmp`, `.${id}.${id}`]) writeFileSync(path + name, dead);
    writeFileSync(`${path}.0123456789ab0123456789ab`, dead); // killed while it took over
    writeFileSync(`${path}.${id}.tmp`, '');
    writeFileSync(`${path}.mine`, 'a file of the user');
    takeLock(path, options).release();
    expect(readdirSync(folder)).toEqual(['run.lock.mine']);
  });
});

describe('the holder cannot be looked at', () => {
  it.each([
    ['on another machine', { host: 'node7' }, 'process 12 on node7 since'],
    ['on a machine of the same name', { machine: 'another' }, `process 12 on ${hostname()} since`],
  ])('%s: refused, with the file to delete', (_, changes, text) => {
    leave({ pid: 12, ...changes });
    expect(() => takeLock(path, options)).toThrow(text);
    try {
      takeLock(path, options);
    } catch (error) {
      expect((error as UserError).cure).toContain(`delete ${path}`);
      expect((error as UserError).cure).not.toContain('kill');
    }
    expect(existsSync(path)).toBe(true);
  });
});

describe('the place', () => {
  it.each(['', 'my notes', '{}', '[]', 'null', '{"pid":1,"host":"a","id":"b"}'])(
    'has a file that is no lock (%s): refused, and the file stays',
    (text) => {
      writeFileSync(path, text);
      expect(() => takeLock(path, options)).toThrow(/received .*run\.lock, which is something else/);
      expect(readFileSync(path, 'utf8')).toBe(text);
      expect(readdirSync(folder)).toEqual(['run.lock']);
    },
  );

  it('has a folder of the name, or is not there', () => {
    mkdirSync(path);
    expect(() => takeLock(path, options)).toThrow(/something else/);
    expect(() => takeLock(join(folder, 'nowhere', 'run.lock'), options)).toThrow(/Expected to write in .*nowhere/);
  });
});
