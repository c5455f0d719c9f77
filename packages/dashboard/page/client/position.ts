/** Positions of the stream: `run:byteOffset` with commas. What has arrived of each run. */

/** The position after both: of a run that both name, the later message counts. */
export function mergePositions(before: string, after: string): string {
  const offsets = new Map<string, string>();
  for (const word of `${before},${after}`.split(',').filter(Boolean)) {
    const at = word.lastIndexOf(':');
    offsets.set(word.slice(0, at), word.slice(at + 1));
  }
  return [...offsets].map(([run, offset]) => `${run}:${offset}`).join(',');
}
