/** The page's server as a process of its own, to be killed: `page-process.mjs ROOT PORT TRAINER`. Prints a line when it listens. */
import { startDashboard } from '../../dist/server/server.js';

const [root, port, trainer] = process.argv.slice(2);
await startDashboard({
  roots: [root],
  port: Number(port),
  token: 't'.repeat(43),
  commandLine: { program: process.execPath, words: [trainer] },
  sliceGrid: () => null,
  version: '0.0.0',
  cwd: root,
});
console.log('listening');
