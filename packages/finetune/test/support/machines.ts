/**
 * Machines on this one: each has a network, mounts and a name of its own, and a cable joins two of them. A machine's name means its loopback,
 * as is usual. Nothing of it is left when the process that holds it has ended.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CLI, type Running, start, words } from './cli-run.js';

/** Whether a process may have them. */
export const MACHINES =
  spawnSync('unshare', ['-nmu', 'ip', 'link', 'add', 'link0', 'type', 'veth', 'peer', 'name', 'link1']).status === 0 &&
  spawnSync('nsenter', ['--version']).status === 0;
if (!MACHINES) console.warn('Tests of two machines are left out: they need root, `unshare`, `nsenter` and `ip`.');

const LINK = 'link0';

export class Machine {
  readonly name: string;
  readonly address: string;
  readonly #holder: ChildProcess;
  readonly #own: string;

  /** @param own a folder that is another, empty one on each machine */
  static async make(name: string, address: string, own: string): Promise<Machine> {
    const hosts = `${own}-${name}.hosts`;
    writeFileSync(hosts, `127.0.0.1 localhost\n127.0.1.1 ${name}\n`);
    const script = `hostname ${name}; ip link set lo up; mount --bind "$1" /etc/hosts; mount -t tmpfs -o size=100m tmpfs "$2"; echo ready; exec sleep infinity`;
    const holder = spawn('unshare', ['-nmu', 'bash', '-ec', script, 'bash', hosts, own], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise<void>((resolve, reject) => {
      holder.stdout!.once('data', () => resolve());
      holder.once('close', () => reject(new Error(`the machine ${name} ended`)));
    });
    return new Machine(name, address, holder, own);
  }

  private constructor(name: string, address: string, holder: ChildProcess, own: string) {
    [this.name, this.address, this.#holder, this.#own] = [name, address, holder, own];
  }

  get pid(): string {
    return String(this.#holder.pid);
  }

  /** Lays a cable to another machine. */
  connect(other: Machine): void {
    this.#inside('ip', 'link', 'add', LINK, 'type', 'veth', 'peer', 'name', LINK, 'netns', other.pid);
    for (const machine of [this, other]) {
      machine.#inside('ip', 'address', 'add', `${machine.address}/24`, 'dev', LINK);
      machine.#inside('ip', 'link', 'set', LINK, 'up');
    }
  }

  /** Cuts the cable. */
  cut(): void {
    this.#inside('ip', 'link', 'set', LINK, 'down');
  }

  mend(): void {
    this.#inside('ip', 'link', 'set', LINK, 'up');
  }

  /** Starts `minicpm-finetune train` on it. */
  train(flags: Readonly<Record<string, unknown>>): Running {
    const inside = ['-t', this.pid, '-n', '-m', '-u', 'env', `TMPDIR=${this.#own}`];
    const command = [...inside, process.execPath, CLI, 'train', ...words(flags)];
    return start('nsenter', command);
  }

  /** Where this machine's file of a path is for this process. */
  path(...parts: string[]): string {
    return join('/proc', this.pid, 'root', ...parts);
  }

  /** Runs something on it. */
  #inside(...command: string[]): string {
    return execFileSync('nsenter', ['-t', this.pid, '-n', '-m', '-u', ...command], { encoding: 'utf8' });
  }

  remove(): void {
    this.#holder.kill('SIGKILL');
  }
}
