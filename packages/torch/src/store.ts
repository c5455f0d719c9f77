/**
 * Texts and counters that all processes of a run share. One of them serves the store over TCP (c10d's TCPStore).
 * Its calls return at once, but for the wait for the server's answer. It has no password: use it in trusted networks.
 */
import { getSystemErrorName } from 'node:util';
import { native } from './native.js';
import { guard } from './tensor.js';

export interface StoreOptions {
  /** Host name or address of the process that serves. */
  readonly host: string;
  readonly port: number;
  /** Whether this process serves. */
  readonly server: boolean;
  /** How long to try to connect, and to wait for an answer, in milliseconds. */
  readonly timeout: number;
  /** A listening socket to serve on, which this process inherited; a socket of `port` is opened without one. */
  readonly listening?: number;
}

/**
 * The address of this machine from which it reaches a host, by the routing table: the one that other machines can answer to. (The address of
 * the machine's own name is often the loopback's.)
 *
 * @throws TorchError for an unknown host, or one without a route
 */
export function addressTowards(host: string, port: number): string {
  return guard(() => native.addressTowards(host, port));
}

/**
 * A socket that listens on one address of this machine, for `StoreOptions.listening`: a store without one listens on all of them.
 *
 * @returns the socket, or the name of the system's error
 * @throws TorchError for an unknown host
 */
export function listenOn(address: string, port: number): number | string {
  const result = guard(() => native.listenOn(address, port));
  return result < 0 ? getSystemErrorName(result) : result;
}

/** A connection to the store. Close it, or use `using`; the store ends with the connection of the process that serves. */
export class Store implements Disposable {
  readonly #id: number;
  readonly #options: StoreOptions;

  /** @throws TorchError when the port is in use, or nobody serves within the timeout */
  constructor(options: StoreOptions) {
    const { host, port, server, timeout, listening = -1 } = options;
    this.#options = options;
    this.#id = guard(() => native.openStore(host, port, server, timeout, listening));
  }

  /** A connection of its own to the same store. */
  clone(): Store {
    const { host, port, timeout } = this.#options;
    return new Store({ host, port, server: false, timeout });
  }

  /** The number by which native functions know it. */
  get id(): number {
    return this.#id;
  }

  /** The address of this machine from which it reaches the store. */
  get ownAddress(): string {
    return addressTowards(this.#options.host, this.#options.port);
  }

  /** Sets a text. It is not known whether the server got it: `get` or `add` tells. */
  set(key: string, text: string): void {
    guard(() => native.storeSet(this.#id, key, text));
  }

  /**
   * A text that some process has set; undefined when none has.
   *
   * @throws TorchError when the server is gone
   */
  get(key: string): string | undefined {
    return guard(() => native.storeGet(this.#id, key)) ?? undefined;
  }

  /**
   * Adds an integer to a counter, which begins at 0, and returns the sum.
   *
   * @throws TorchError when the server is gone
   */
  add(key: string, amount: number): number {
    return guard(() => native.storeAdd(this.#id, key, amount));
  }

  close(): void {
    native.closeStore(this.#id);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
