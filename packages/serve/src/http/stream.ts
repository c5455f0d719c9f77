/**
 * Answers that take their time. Server-sent events with comments as signs of life, and JSON that is preceded by spaces when it is long
 * in coming: clients give up on a connection that is silent.
 *
 * A body tells when its reader goes away: then the work for it ends.
 */
import { type AnswerEvent, type AnswerHead, Chunks, type Usage, WholeAnswer } from '../api/answer.js';
import { ApiError, asApiError } from '../api/error.js';

/** An answer under way, as this file needs it. */
export interface Source {
  readonly events: AsyncIterable<AnswerEvent>;
  readonly usage: Usage;
  /** Its place in the queue; 0: it is being answered. */
  position(): number;
  /** Nobody waits for it any more. */
  abandon(): void;
}

export interface StreamOptions {
  /** Milliseconds between signs of life. */
  readonly every: number;
  /** Is told what went wrong here. */
  readonly onError: (error: unknown) => void;
}

const SSE_HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache',
  'x-accel-buffering': 'no',
};

type Write = (text: string) => void;

/** A body that `fill` writes; `beat` is called whenever nothing was written for a while. Nothing is written once the reader is gone. */
function body(
  every: number,
  abandon: () => void,
  beat: () => string,
  fill: (write: Write) => Promise<void>,
): ReadableStream {
  const encoder = new TextEncoder();
  let timer: NodeJS.Timeout | undefined;
  let open = true;
  const end = (): void => {
    open = false;
    clearInterval(timer);
  };
  return new ReadableStream({
    start(controller) {
      const write = (text: string): void => {
        if (open) controller.enqueue(encoder.encode(text));
        timer?.refresh();
      };
      timer = setInterval(() => write(beat()), every);
      fill(write).then(
        () => {
          if (open) controller.close();
          end();
        },
        (error) => {
          if (open) controller.error(error);
          end();
        },
      );
    },
    cancel() {
      end();
      abandon();
    },
  });
}

/** The answer as server-sent events. */
export function eventStream(
  source: Source,
  head: AnswerHead,
  usage: 'none' | 'last' | 'every',
  { every, onError }: StreamOptions,
): Response {
  const chunks = new Chunks(head, usage);
  const data = (object: object): string => `data: ${JSON.stringify(object)}\n\n`;
  const beat = (): string => (source.position() > 0 ? `: queued ${source.position()}\n\n` : ': ping\n\n');
  const stream = body(every, source.abandon, beat, async (write) => {
    try {
      if (source.position() > 0) write(`: queued ${source.position()}\n\n`);
      for (const chunk of chunks.first(source.usage)) write(data(chunk));
      for await (const event of source.events) write(data(chunks.of(event, source.usage)));
      const last = chunks.last(source.usage);
      if (last !== undefined) write(data(last));
      write('data: [DONE]\n\n');
    } catch (error) {
      if (!(error instanceof ApiError)) onError(error);
      write(data(asApiError(error).body()));
    }
  });
  return new Response(stream, { headers: SSE_HEADERS });
}

/** The answer as one JSON object. Its headers wait for it as long as a client surely does, then go ahead. @throws ApiError before that */
export async function wholeAnswer(source: Source, head: AnswerHead, { every }: StreamOptions): Promise<Response> {
  const answer = new WholeAnswer(head);
  const gathered = (async () => {
    for await (const event of source.events) answer.add(event);
    return JSON.stringify(answer.json(source.usage));
  })();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), every);
  });
  const first = await Promise.race([gathered, late]).finally(() => clearTimeout(timer));
  const headers = { 'content-type': 'application/json' };
  if (first !== 'late') return new Response(first, { headers });
  const space = (): string => ' '; // JSON may begin with spaces
  const stream = body(every, source.abandon, space, async (write) => {
    write(space());
    write(await gathered); // an error ends the connection: the status said already that all is well
  });
  return new Response(stream, { headers });
}
