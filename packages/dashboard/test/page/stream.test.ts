import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { EventParser, followEvents, type StreamEvent } from '../../page/client/event-stream.js';
import { mergePositions } from '../../page/client/position.js';

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

test('a stream cut at any byte gives the same events', () => {
  const text =
    'retry: 2000\n\n: ping\n\nid: a:1\nevent: run\ndata: {"x":1}\n\r\nid: a:2\r\ndata: one\r\ndata: two\r\n\r\ndata: last\n\n';
  const whole = new EventParser().push(text);
  expect(whole).toEqual([
    { id: 'a:1', event: 'run', data: '{"x":1}' },
    { id: 'a:2', event: 'message', data: 'one\ntwo' },
    { id: 'a:2', event: 'message', data: 'last' },
  ]);
  for (let cut = 1; cut < text.length; cut++) {
    const parser = new EventParser();
    expect([...parser.push(text.slice(0, cut)), ...parser.push(text.slice(cut))], `cut at ${cut}`).toEqual(whole);
  }
  const parser = new EventParser();
  expect([...text].flatMap((character) => parser.push(character))).toEqual(whole);
});

test('positions are merged by run, the later one counts', () => {
  expect(mergePositions('', 'a:5')).toBe('a:5');
  expect(mergePositions('a:5,b:7', 'b:9,c:1')).toBe('a:5,b:9,c:1');
});

/** A server whose connections a test answers one after the other; it gives the asked position of each. */
async function server(
  ...answers: ((response: ServerResponse) => void)[]
): Promise<{ url: string; asked: (string | null)[] }> {
  const asked: (string | null)[] = [];
  const http = createServer((request, response) => {
    asked.push(new URL(request.url!, 'http://localhost').searchParams.get('after'));
    const answer = answers[asked.length - 1];
    if (answer === undefined) return; // it hangs until the test ends
    answer(response);
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    http.closeAllConnections();
    http.close();
  });
  return { url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/api/events`, asked };
}

const begin = (response: ServerResponse): ServerResponse =>
  response.writeHead(200, { 'content-type': 'text/event-stream' });

test('after a break it resumes after the last event, and says whether it is live', async () => {
  const { url, asked } = await server(
    (response) => {
      begin(response).write('id: a:10\nevent: run\ndata: 1\n\nid: a:20\nevent: run\nda');
      setTimeout(() => response.destroy(), 20);
    },
    (response) => response.writeHead(503).end('{"error":{"message":"soon","field":null,"cure":null}}'),
    (response) => void begin(response).write('id: a:20\nevent: run\ndata: 2\n\n'),
  );
  const stop = new AbortController();
  closers.push(() => stop.abort());
  const events: StreamEvent[] = [];
  const states: boolean[] = [];
  await new Promise<void>((resolve) => {
    void followEvents({
      url,
      after: 'a:0,b:3',
      merge: mergePositions,
      signal: stop.signal,
      retry: 10,
      onState: (live) => states.push(live),
      onEvent: (event) => {
        events.push(event);
        if (event.data === '2') resolve();
      },
    });
  });
  expect(events.map(({ data }) => data)).toEqual(['1', '2']);
  expect(asked).toEqual(['a:0,b:3', 'a:10,b:3', 'a:10,b:3']);
  expect(states).toEqual([true, false, true]);
});

test('a connection that falls silent counts as broken', async () => {
  const { url, asked } = await server(
    (response) => void begin(response).write(': hello\n\n'),
    // on a busy machine a connection may be given up before its first byte
    ...Array.from(
      { length: 20 },
      () => (response: ServerResponse) => void begin(response).write('id: a:1\ndata: back\n\n'),
    ),
  );
  const stop = new AbortController();
  closers.push(() => stop.abort());
  await new Promise<void>((resolve) => {
    void followEvents({
      url,
      after: '',
      merge: mergePositions,
      signal: stop.signal,
      retry: 10,
      silence: 150,
      onState: () => undefined,
      onEvent: () => resolve(),
    });
  });
  expect(asked.length).toBeGreaterThan(1);
  expect(asked.every((after) => after === null)).toBe(true);
});

test('a refused token ends it', async () => {
  const { url, asked } = await server((response) => response.writeHead(401).end('{}'));
  await followEvents({
    url,
    after: '',
    merge: mergePositions,
    signal: new AbortController().signal,
    retry: 10,
    onState: () => undefined,
    onEvent: () => undefined,
  });
  expect(asked).toHaveLength(1);
});

test('a page that nobody sees gives its connection up, and goes on where it was when it is seen', async () => {
  let ended = 0;
  const { url, asked } = await server(
    (response) => void begin(response.on('close', () => ended++)).write('id: a:10\ndata: 1\n\n'),
    (response) => void begin(response).write('id: a:20\ndata: 2\n\n'),
  );
  const stop = new AbortController();
  closers.push(() => stop.abort());
  let leave = (): void => undefined;
  let look = (): void => undefined;
  const attention = {
    seen: () => (asked.length === 1 ? new Promise<void>((resolve) => (look = resolve)) : Promise.resolve()),
    whenLeft: (left: () => void) => {
      leave = left;
      return () => undefined;
    },
  };
  const states: boolean[] = [];
  const data: string[] = [];
  await new Promise<void>((resolve) => {
    void followEvents({
      url,
      after: 'a:0',
      merge: mergePositions,
      signal: stop.signal,
      attention,
      onState: (live) => states.push(live),
      onEvent: (event) => {
        data.push(event.data);
        if (event.data === '2') resolve();
        else setTimeout(leave);
      },
    });
    const seen = setInterval(() => {
      if (ended === 0) return;
      clearInterval(seen);
      expect(asked).toHaveLength(1); // no connection while nobody looks
      look();
    }, 10);
  });
  expect(data).toEqual(['1', '2']);
  expect(asked).toEqual(['a:0', 'a:10']);
  expect(states).toEqual([true]); // nothing was lost
});
