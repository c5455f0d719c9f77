/** Where the processes of a run meet. And waiting for who serves there. */
import { lookup } from 'node:dns/promises';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '@minicpm-finetune/run';
import { listenOn } from '@minicpm-finetune/torch';
import { cannotListen, ownAddresses } from './listening.js';

/** What of a place says where the processes meet. */
export interface Meeting {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
  readonly localSize: number;
  readonly masterAddr: string;
}

/** Milliseconds between two tries to connect, and between two lines about it. */
const BETWEEN_TRIES = 200;
const BETWEEN_LINES = 5000;

/**
 * The address of the master. A machine's own name often means its loopback there: with processes of other machines it is the address of the
 * one network that the machine is in.
 *
 * @throws UserError for an unknown name, or one that means the loopback
 */
export async function masterAddress({ rank, size, localRank, localSize, masterAddr }: Meeting): Promise<string> {
  const address = await addressOf(masterAddr);
  if (localSize === size || !/^(127\.|::1$)/.test(address)) return address;
  const here = rank - localRank === 0;
  const own = here ? ownAddresses() : [];
  if (own.length === 1) return own[0]!;
  throw new UserError(
    `Expected an address that other machines reach for MASTER_ADDR but received ${masterAddr}, which is ${address} on this machine.`,
    {
      cure:
        own.length === 0
          ? 'Give the address of machine 0 in the network that the machines share, such as 10.0.0.1.'
          : `Give that of the network that the machines share: ${own.join(', ')}.`,
    },
  );
}

async function addressOf(host: string): Promise<string> {
  try {
    return (await lookup(host)).address;
  } catch (cause) {
    throw new UserError(`Expected a known host for the address of the master but received ${host}.`, {
      flag: '--master_addr',
      cure: 'Give its address in numbers, such as 10.0.0.1.',
      cause,
    });
  }
}

/** Listens on one address alone. @throws UserError */
export function listenAt(host: string, port: number): number {
  const socket = listenOn(host, port);
  if (typeof socket === 'string') throw cannotListen(socket, host, port);
  return socket;
}

/** Returns when somebody listens. @throws UserError after `limit` milliseconds */
export async function waitForMaster(
  host: string,
  port: number,
  { rank, limit, notice }: { readonly rank: number; readonly limit: number; readonly notice: (line: string) => void },
): Promise<void> {
  const started = performance.now();
  let lines = 0;
  let answer = '';
  while (performance.now() - started < limit) {
    answer = await tryToConnect(host, port);
    if (answer === '') return;
    const seconds = (performance.now() - started) / 1000;
    if (seconds * 1000 >= (lines + 1) * BETWEEN_LINES) {
      lines += 1;
      notice(
        `Rank ${rank} waits for rank 0 at ${host}:${port} (${answer}) since ${Math.round(seconds)} s, at most ${Math.round(limit / 1000)} s.`,
      );
    }
    await sleep(BETWEEN_TRIES);
  }
  throw new UserError(
    `Expected rank 0 at ${host}:${port} within ${Math.round(limit / 1000)} s but received: ${answer}.`,
    {
      flag: '--master_addr',
      cure: 'Start the command on machine 0, give all machines its address and port, and look at firewalls between them.',
    },
  );
}

/** The name of the error, or nothing. */
function tryToConnect(host: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: BETWEEN_LINES });
    const done = (answer: string): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.on('connect', () => done(''));
    socket.on('timeout', () => done('no answer'));
    socket.on('error', ({ code, message }: NodeJS.ErrnoException) => done(code ?? message));
  });
}
