/** Windows of a log that grows. Pieces are put together by their byte offsets. */
import type { LogWindow } from '../../../src/shared/api.js';

/** Bytes that are loaded first, and each time that earlier output is asked for. */
export const FIRST_BYTES = 64 * 1024;

/** Most characters that are shown: the beginning of a longer window goes. */
const MOST = 1024 * 1024;

/** The window with what was written after it. A log that was begun afresh replaces it. */
export function appendLog(before: LogWindow, piece: LogWindow): LogWindow {
  if (piece.from !== before.to || piece.size < before.size) return piece;
  const text = before.text + piece.text;
  if (text.length <= MOST) return { ...piece, from: before.from, text };
  const cut = text.indexOf('\n', text.length - MOST) + 1 || text.length - MOST;
  const bytes = new TextEncoder().encode(text.slice(0, cut)).length;
  return { ...piece, from: before.from + bytes, text: text.slice(cut) };
}

/** The window with what was written before it. */
export function prependLog(earlier: LogWindow, window: LogWindow): LogWindow {
  return earlier.to === window.from ? { ...window, from: earlier.from, text: earlier.text + window.text } : window;
}
