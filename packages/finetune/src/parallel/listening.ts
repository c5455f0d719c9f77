/** Addresses at which this machine can listen. Loads no libtorch. */
import { networkInterfaces } from 'node:os';
import { UserError } from '@minicpm-finetune/run';

/** This machine's addresses in the networks that it is in. */
export function ownAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((all) => all ?? [])
    .filter(({ family, internal }) => family === 'IPv4' && !internal)
    .map(({ address }) => address);
}

/** Why nobody can listen there, by the name of the system's error. */
export function cannotListen(code: string, host: string, port: number): UserError {
  if (code === 'EADDRINUSE') {
    return new UserError(`Expected a free port for --master_port but ${port} of ${host} is in use.`, {
      flag: '--master_port',
      cure: 'Give another one, the same on all machines, or end the process that uses it.',
    });
  }
  if (code === 'EADDRNOTAVAIL') {
    return new UserError(
      `Expected an address of this machine for --master_addr, as it is machine 0, but received ${host}.`,
      {
        flag: '--master_addr',
        cure: `Give one of this machine's, the same on all machines: ${['127.0.0.1', ...ownAddresses()].join(', ')}.`,
      },
    );
  }
  return new UserError(`Expected to listen on ${host}:${port} but received: ${code}.`, {
    flag: '--master_addr',
    cure: 'Give another address with --master_addr, or another port with --master_port.',
  });
}

/** The line about a store and a group that anybody who reaches them could use. */
export function openTo(host: string, port: number): string {
  return `The processes of this run connect to ${host}:${port}, without a password: in a trusted network only.`;
}
