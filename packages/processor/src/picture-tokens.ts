/** How many tokens a picture becomes. */
import { strict as assert } from 'node:assert';

/** The same number for every picture, or one token for so many patches. */
export type PictureTokens = { readonly queryNum: number } | { readonly patchesPerToken: number };

/** Tokens of a picture or slice of a size in patches, which merging divides. */
export function countTokens(
  tokens: PictureTokens,
  { rows, cols }: { readonly rows: number; readonly cols: number },
): number {
  return 'queryNum' in tokens ? tokens.queryNum : (rows * cols) / tokens.patchesPerToken;
}

/** The number of a model whose pictures all have the same. */
export function fixedTokens(tokens: PictureTokens): number {
  assert.ok('queryNum' in tokens, 'every picture has the same number of tokens');
  return tokens.queryNum;
}
