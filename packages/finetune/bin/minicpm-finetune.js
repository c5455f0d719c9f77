#!/usr/bin/env node
// Starts the compiled command line.
import { existsSync } from 'node:fs';

const compiled = new URL('../dist/cli/main.js', import.meta.url);
if (!existsSync(compiled)) {
  process.stderr.write('error: minicpm-finetune is not built yet.\n cure: Run `npm run setup` in the repository.\n');
  process.exit(1);
}
// A reader that goes away (`| head`) ends the output, not the world.
process.stdout.on('error', (error) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});
const { main } = await import(compiled.href);
process.exitCode = await main(process.argv.slice(2));
