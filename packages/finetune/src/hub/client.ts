/**
 * Requests to the Hugging Face hub. Knows its address and the user's token, retries short outages, and turns every
 * refusal into an error with the cure. Which requests are made is decided by hub.ts and hub-transfer.ts.
 *
 * HF_ENDPOINT, HF_TOKEN (else the token that `hf auth login` stored) and HF_HUB_OFFLINE mean what they mean to huggingface_hub, whose
 * answers carry the reason of a refusal in the header X-Error-Code.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError, type UserErrorDetails } from '@minicpm-finetune/run';
import { VERSION } from '../version.js';
import { huggingFaceHome } from './home.js';

/** The requested model, for messages. */
export interface HubSubject {
  /** `org/name`. */
  readonly repo: string;
  readonly revision: string;
  /** The flag that named it, with dashes. */
  readonly flag: string;
}

/** Milliseconds before each further try of a request that got no proper answer. */
const PAUSES: readonly number[] = [1000, 2000, 4000, 8000];
/** Answers that may be others a moment later. */
const PASSING = new Set([408, 429, 500, 502, 503, 504]);

export class HubClient {
  readonly endpoint = (process.env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '');
  readonly #token = storedToken();
  /** Something was answered: what fails now may pass. */
  #reached = false;

  readonly subject: HubSubject;
  readonly pauses: readonly number[];

  constructor(subject: HubSubject, pauses: readonly number[] = PAUSES) {
    this.subject = subject;
    this.pauses = pauses;
    if (!['', '0', 'false'].includes((process.env.HF_HUB_OFFLINE ?? '').toLowerCase())) {
      throw this.error(`Expected ${subject.repo} in the cache but received HF_HUB_OFFLINE and no complete copy.`, {
        cure: 'Unset HF_HUB_OFFLINE to download it, or give the folder of a checkpoint.',
      });
    }
  }

  /**
   * As `fetch`, with the token (never sent on to another host: `fetch` sees to that), resolving only with an answer of 200 to 299.
   * @throws UserError for a refusal, and when the hub cannot be reached
   */
  readonly fetch = async (input: string | URL | Request, init: RequestInit = {}): Promise<Response> => {
    const headers = new Headers(init.headers);
    headers.set('user-agent', `minicpm-finetune/${VERSION}`);
    headers.set('accept-encoding', 'identity'); // sizes and ranges are those of the file itself
    if (this.#token !== null) headers.set('authorization', `Bearer ${this.#token}`);
    for (let tries = 0; ; tries++) {
      const pause = this.pauses[tries];
      const response = await fetch(input, { ...init, headers }).catch((cause: unknown) => {
        if (init.signal?.aborted) throw cause;
        if (!this.#reached || pause === undefined) throw this.#unreachable(cause);
        return null;
      });
      if (response?.ok) {
        this.#reached = true;
        return response;
      }
      await response?.body?.cancel();
      if (response && (!PASSING.has(response.status) || pause === undefined)) throw this.#refusal(response);
      await sleep(pause, undefined, init.signal ? { signal: init.signal } : {});
    }
  };

  /** A UserError about what is asked for. */
  error(message: string, details: UserErrorDetails & { cause?: unknown }): UserError {
    return new UserError(message, { flag: this.subject.flag, ...details });
  }

  #unreachable(cause: unknown): UserError {
    return this.error(
      `Expected an answer of the hub for ${this.subject.repo} but ${this.endpoint} cannot be reached (${reason(cause)}).`,
      {
        cure: 'Check the network. Where the hub is blocked, set HF_ENDPOINT to a mirror, or download the checkpoint elsewhere and give its folder.',
        cause,
      },
    );
  }

  #refusal(response: Response): UserError {
    const { repo, revision } = this.subject;
    const { status, headers } = response;
    const code = headers.get('x-error-code');
    const answer = `${this.endpoint} answered ${status}${code === null ? '' : ` (${code})`}`;
    const spelling = `Check the spelling: ids look like openbmb/MiniCPM-V-2_6, and there is no folder ${repo} here either.`;
    if (code === 'GatedRepo' || (status === 403 && code === null)) {
      return this.error(`Expected access to ${repo} but ${answer}: its owners ask for an agreement first.`, {
        cure: `Accept the conditions on ${this.endpoint}/${repo}, then set HF_TOKEN to a token of that account that may read it.`,
      });
    }
    if (status === 401 || status === 403) {
      return this.#token === null
        ? this.error(`Expected access to ${repo} but ${answer}: it does not exist, or is private.`, {
            cure: `${spelling} If it is private, set HF_TOKEN to a token that may read it.`,
          })
        : this.error(`Expected a token that may read ${repo} for HF_TOKEN but ${answer}.`, {
            cure: `Make a new token with read access at ${this.endpoint}/settings/tokens, or check the spelling of the id.`,
          });
    }
    if (code === 'RevisionNotFound') {
      return this.error(`Expected a branch, tag or commit of ${repo} but received ${revision}: ${answer}.`, {
        flag: '--revision',
        cure: `See ${this.endpoint}/${repo}/commits/main for what there is.`,
      });
    }
    if (status === 404) {
      return this.error(`Expected a model of the hub but received ${repo}: ${answer}.`, { cure: spelling });
    }
    return this.error(`Expected ${repo} from the hub but ${answer} for ${response.url}.`, {
      cure: 'Try again later: what is downloaded stays. https://status.huggingface.co shows known outages.',
    });
  }
}

/** HF_TOKEN, or the token that `hf auth login` stored; null without. */
function storedToken(): string | null {
  const given = (process.env.HF_TOKEN ?? '').trim();
  if (given !== '') return given;
  const file = process.env.HF_TOKEN_PATH ?? join(huggingFaceHome(), 'token');
  return (existsSync(file) && readFileSync(file, 'utf8').trim()) || null;
}

/** The cause of a "fetch failed". */
function reason(error: unknown): string {
  const { cause, message } = error as Error;
  if (!(cause instanceof Error)) return message;
  return 'code' in cause ? String(cause.code) : cause.message;
}
