/** Commands for a shell, one flag on a line. */

/** A word as a shell reads it back. */
const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** The words of a command that is already written for a shell, quotes kept. */
const wordsOf = (command: string): string[] => command.match(/(?:'[^']*'|\\.|[^\s'\\])+/g) ?? [];

/** A command, as words or as written for a shell, with each flag on a line of its own. */
export function shellLines(command: string | readonly string[]): string {
  const words = typeof command === 'string' ? wordsOf(command) : command.map(quoted);
  return words.reduce((text, word) => {
    if (text === '') return word;
    return /^'?--/.test(word) ? `${text} \\\n  ${word}` : `${text} ${word}`;
  }, '');
}
