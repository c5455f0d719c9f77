/** The command line in this process. */
import { main } from '../../src/cli/main.js';

/** Runs a command with an empty environment. Returns its exit code and what it wrote. */
export async function command(...words: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const written = { stdout: '', stderr: '' };
  const to = (name: keyof typeof written) => ({
    write: (text: string): void => {
      written[name] += text;
    },
  });
  const code = await main([...words], { stdout: to('stdout'), stderr: to('stderr'), env: {} });
  return { code, ...written };
}
