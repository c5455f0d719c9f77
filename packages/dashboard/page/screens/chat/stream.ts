/** Reads one streamed answer of OpenAI's chat completions. */
import { eventsOf } from '../../client/event-stream.js';
import { RequestError } from '../../client/request.js';

export interface Usage {
  readonly prompt: number;
  readonly completion: number;
  /** Of the prompt, taken over from an earlier request. */
  readonly cached: number;
}

export interface AnswerEvents {
  readonly onText: (text: string) => void;
  readonly onEnd: (reason: string) => void;
  readonly onUsage: (usage: Usage) => void;
}

interface Chunk {
  readonly choices?: readonly {
    readonly delta?: { readonly content?: string | null };
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number };
  } | null;
  readonly error?: { readonly message: string };
}

/** Takes one `data:` of the stream. @throws RequestError what the server says went wrong in the middle */
export function takeChunk(data: string, events: AnswerEvents): void {
  if (data === '[DONE]') return;
  const { choices = [], usage, error } = JSON.parse(data) as Chunk;
  if (error !== undefined) throw new RequestError(0, error);
  const [choice] = choices;
  const text = choice?.delta?.content;
  if (text) events.onText(text);
  if (choice?.finish_reason) events.onEnd(choice.finish_reason);
  if (!usage) return;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  events.onUsage({ prompt: usage.prompt_tokens, completion: usage.completion_tokens, cached });
}

/** The refusal of an answer with a status of 400 or above: OpenAI's form, or the page server's. */
export function refusalOf(status: number, text: string): RequestError {
  try {
    const { error } = JSON.parse(text) as {
      error?: { message?: string; param?: string | null; field?: string | null; cure?: string | null };
    };
    if (error?.message !== undefined) {
      return new RequestError(status, {
        message: error.message,
        field: error.param ?? error.field ?? null,
        cure: error.cure ?? null,
      });
    }
  } catch {
    // Not JSON.
  }
  return new RequestError(status, { message: text.trim().slice(0, 300) || `status ${status}` });
}

/** Asks, and reads the answer to its end. @throws RequestError; what the signal aborts with */
export async function ask(address: string, body: object, events: AnswerEvents, signal: AbortSignal): Promise<void> {
  const response = await fetch(address, {
    method: 'POST',
    credentials: 'same-origin',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok || response.body === null) throw refusalOf(response.status, await response.text());
  for await (const parts of eventsOf(response.body)) for (const { data } of parts) takeChunk(data, events);
}
