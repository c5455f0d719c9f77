#!/usr/bin/env node
// Starts the compiled command line.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const compiled = new URL('../dist/cli/main.js', import.meta.url);
if (!existsSync(compiled)) {
  const clone = existsSync(new URL('../../../scripts/setup.mjs', import.meta.url));
  const cure = clone ? 'Run `npm run setup` in the repository.' : 'Install it again: `npm install minicpm-finetune`.';
  process.stderr.write(`error: Expected ${fileURLToPath(compiled)} but it is not there.\n cure: ${cure}\n`);
  process.exit(1);
}
// A reader that goes away (`| head`) ends the output, not the world.
process.stdout.on('error', (error) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});
const { main } = await import(compiled.href);
process.exitCode = await main(process.argv.slice(2));
