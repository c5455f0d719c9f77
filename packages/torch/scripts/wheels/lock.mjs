/** Lets one process at a time work on a folder. The others wait. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

const isAlive = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
};

function holderText(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return ''; // given back in this moment
  }
}

/** Runs `work` while `file` says that this process does. A lock whose process has ended is taken over. */
export async function withLock(file, log, work) {
  mkdirSync(dirname(file), { recursive: true });
  for (let waited = false; ; ) {
    try {
      writeFileSync(file, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
      const holder = Number(holderText(file));
      if (holder > 0 && !isAlive(holder)) {
        rmSync(file, { force: true });
        continue;
      }
      if (!waited) log(`waiting for another setup (process ${holder}); if there is none, delete ${file}`);
      waited = true;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
  }
}
