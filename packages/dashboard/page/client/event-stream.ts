/** Follows a stream of server-sent events for ever. After a break it resumes right after the last event that came. */
import type { Attention } from './attention.js';
import { failure, RequestError } from './request.js';

export interface StreamEvent {
  readonly id: string;
  readonly event: string;
  readonly data: string;
}

export interface FollowOptions {
  /** The address of the stream; what has arrived is added to it as `after`. */
  readonly url: string;
  /** The position to start after. */
  readonly after: string;
  /** The position after `before` and an event's id. */
  readonly merge: (before: string, id: string) => string;
  readonly signal: AbortSignal;
  readonly onEvent: (event: StreamEvent) => void;
  /** Told at each change: whether events can arrive. */
  readonly onState: (live: boolean) => void;
  /** Milliseconds between a break and the next try. */
  readonly retry?: number;
  /** Milliseconds without a byte (the server pings every 15 s) after which a connection counts as broken. */
  readonly silence?: number;
  /** Without it the stream is followed whether anybody looks or not. */
  readonly attention?: Attention;
}

/** Cuts the text of a stream into events. Takes pieces of any size, as they come. */
export class EventParser {
  #rest = '';
  #id = '';

  /** The events that this piece completes. An event keeps the last id that was sent, as the standard says. */
  push(piece: string): StreamEvent[] {
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    const events: StreamEvent[] = [];
    let [name, data, used] = ['', [] as string[], 0];
    for (const [index, line] of lines.slice(0, -1).entries()) {
      if (line === '') {
        if (data.length > 0) events.push({ id: this.#id, event: name || 'message', data: data.join('\n') });
        [name, data, used] = ['', [], index + 1];
        continue;
      }
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
      if (field === 'id') this.#id = value!;
      else if (field === 'event') name = value!;
      else if (field === 'data') data.push(value!);
    }
    this.#rest = lines.slice(used).join('\n');
    return events;
  }
}

/** The events of a body to its end, those of each part of it that arrives; an empty list is a sign of life. */
export async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<readonly StreamEvent[]> {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield parser.push(decoder.decode(value, { stream: true }));
  }
}

/** Follows until the signal aborts. A refused token ends it, too: the page then asks for one. */
export async function followEvents(options: FollowOptions): Promise<void> {
  const { signal, retry = 2000, onState, attention } = options;
  let { after } = options;
  let live = false;
  const say = (now: boolean): void => {
    if (now !== live) onState(now);
    live = now;
  };
  for (;;) {
    await attention?.seen(signal);
    if (signal.aborted) return;
    let left = false;
    try {
      const onId = (id: string): void => {
        after = options.merge(after, id);
      };
      const onLeft = (): void => {
        left = true;
      };
      await readOnce({ ...options, after }, { onOpen: () => say(true), onId, onLeft });
    } catch (error) {
      if (error instanceof RequestError && error.status === 401) return say(false);
      // Any other failure is a break: the next try comes soon.
    }
    if (left) continue; // nobody looks: nothing was lost
    say(false);
    await pause(retry, signal);
  }
}

interface Connection {
  readonly onOpen: () => void;
  readonly onId: (id: string) => void;
  /** Told before the connection ends because nobody looks. */
  readonly onLeft: () => void;
}

/** Reads one connection to its end. */
async function readOnce(options: FollowOptions, { onOpen, onId, onLeft }: Connection): Promise<void> {
  const { url, after, signal, silence = 40_000, onEvent, attention } = options;
  const broken = new AbortController();
  const stop = (): void => broken.abort();
  signal.addEventListener('abort', stop);
  const forget = attention?.whenLeft(() => {
    onLeft();
    stop();
  });
  let timer = setTimeout(stop, silence);
  try {
    const response = await fetch(after === '' ? url : `${url}?after=${after}`, {
      signal: broken.signal,
      headers: { accept: 'text/event-stream' },
    });
    if (!response.ok || response.body === null) throw failure(response.status, await response.text());
    onOpen();
    for await (const events of eventsOf(response.body)) {
      clearTimeout(timer);
      timer = setTimeout(stop, silence);
      for (const event of events) {
        onEvent(event);
        if (event.id !== '') onId(event.id);
      }
    }
  } finally {
    clearTimeout(timer);
    forget?.();
    signal.removeEventListener('abort', stop);
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
  });
}
