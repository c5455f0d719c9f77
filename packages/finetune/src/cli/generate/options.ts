/** The resolved options of `generate`. */
import type { ChatOptions } from '../chat/options.js';

export interface AnswerFileOptions extends Omit<ChatOptions, 'images' | 'videos' | 'prompt' | 'system'> {
  readonly dataPaths: readonly string[];
  /** JSON Lines file; an unfinished file is resumed. */
  readonly output: string;
  /** Records answered side by side. */
  readonly batchSize: number;
  readonly allowSpecialText: boolean;
  /** `skip`: a record that cannot be asked gets a line with the error. */
  readonly onBadRecord: 'stop' | 'skip';
  /** Ask records again whose text or pictures changed since they were answered; otherwise such a file is refused. */
  readonly askChanged: boolean;
}
