/** The address of a screen: `#/runs/ID/charts?x=epoch`. Everything is in the fragment, so the server needs one page. */

export interface Route {
  /** The path, one decoded word each; the first names the screen. */
  readonly path: readonly string[];
  readonly query: ReadonlyMap<string, string>;
}

/** Reads a fragment. Words that are no proper percent-encoding stay as they stand. */
export function readRoute(fragment: string): Route {
  const [path = '', query = ''] = fragment.replace(/^#?\/?/, '').split('?', 2);
  const decode = (word: string): string => {
    try {
      return decodeURIComponent(word);
    } catch {
      return word;
    }
  };
  return {
    path: path.split('/').filter(Boolean).map(decode),
    query: new Map(new URLSearchParams(query)),
  };
}

/** The fragment of a screen; what is undefined or empty in the query is left out. */
export function writeRoute(path: readonly string[], query: Readonly<Record<string, string | undefined>> = {}): string {
  const words = Object.entries(query).filter((entry): entry is [string, string] => Boolean(entry[1]));
  const rest = new URLSearchParams(words).toString();
  return `#/${path.map(encodeURIComponent).join('/')}${rest && `?${rest}`}`;
}

/** The token of `#token=…`, which `minicpm-finetune ui` prints; undefined: the fragment is a screen. */
export function tokenOf(fragment: string): string | undefined {
  return /^#token=([\w-]+)$/.exec(fragment)?.[1];
}
