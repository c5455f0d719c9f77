/** Disks that are soon full, for tests. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A file system of some megabytes, or null where mounting is not permitted. */
export function mountSmall(megabytes: number): string | null {
  const folder = mkdtempSync(join(tmpdir(), 'small-disk-'));
  const { status, stderr, error } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', folder]);
  if (status === 0) return folder;
  rmSync(folder, { recursive: true });
  console.warn(`Tests on a full disk are left out: mount: ${error?.message ?? stderr.toString().trim()}`);
  return null;
}

export function unmount(disk: string): void {
  execFileSync('umount', ['--lazy', disk]); // also where the system still holds a file of it
  rmSync(disk, { recursive: true });
}

/** Leaves not a byte. Removing the file that it returns gives them back. */
export function fillDisk(disk: string): string {
  const ballast = join(disk, 'ballast');
  spawnSync('dd', ['if=/dev/zero', `of=${ballast}`, 'bs=4096']);
  return ballast;
}
