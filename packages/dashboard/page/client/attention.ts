/**
 * Whether anybody sees the page. A browser opens at most six connections to a server for all its tabs together, so a tab that is hidden
 * gives its stream up and goes on with it when it is shown again: else the seventh tab never opens.
 */

export interface Attention {
  /** Resolves once the page is seen, or at the end of `signal`. */
  seen(signal: AbortSignal): Promise<void>;
  /** Calls `leave` when the page has been hidden for a while, until the returned function is called. */
  whenLeft(leave: () => void): () => void;
}

/** Milliseconds: who only looks into another tab finds everything as it was. */
const WHILE = 5000;
const CHANGE = 'visibilitychange';

export const pageAttention: Attention = {
  seen: (signal) =>
    new Promise((resolve) => {
      const look = (): void => {
        if (document.hidden && !signal.aborted) return;
        document.removeEventListener(CHANGE, look);
        signal.removeEventListener('abort', look);
        resolve();
      };
      document.addEventListener(CHANGE, look);
      signal.addEventListener('abort', look);
      look();
    }),
  whenLeft(leave) {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = (): void => {
      clearTimeout(timer);
      if (document.hidden) timer = setTimeout(leave, WHILE);
    };
    document.addEventListener(CHANGE, look);
    look();
    return () => {
      clearTimeout(timer);
      document.removeEventListener(CHANGE, look);
    };
  },
};
