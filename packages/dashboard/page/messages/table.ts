/** What a table of messages is. The English one is written freely; every other one has exactly its keys. */

/** The shape of a table: texts are any text, functions keep their parameters, groups are tables again. */
export type TableOf<T> = {
  readonly [K in keyof T]: T[K] extends string
    ? string
    : T[K] extends (...values: infer V) => string
      ? (...values: V) => string
      : TableOf<T[K]>;
};

export type Language = 'en' | 'zh';

/** The language of a first visit: the first of the browser's that there is a table for. */
export function chooseLanguage(wanted: readonly string[]): Language {
  for (const tag of wanted) {
    const primary = tag.toLowerCase().split('-')[0];
    if (primary === 'zh') return 'zh';
    if (primary === 'en') return 'en';
  }
  return 'en';
}
