/** The folder of Hugging Face's tools. For the token, and the cache in `hub`. Python uses the same. */
import { homedir } from 'node:os';
import { join } from 'node:path';

export function huggingFaceHome(): string {
  return process.env.HF_HOME ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface');
}
