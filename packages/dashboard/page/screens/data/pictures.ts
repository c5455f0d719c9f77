/** Addresses of a record's pictures as the model sees them. */
import type { EncodingView } from '../../../src/shared/api.js';
import { addressOf } from '../../client/request.js';

export interface PicturesOf {
  data: string;
  record: number;
  encoding: EncodingView;
  /** `model_max_length`, where it is not that of the data. */
  limit: number | undefined;
}

/** @param picture its number in the encoding */
export const pictureAddress = ({ data, record, encoding, limit }: PicturesOf, picture: number): string =>
  addressOf(
    '/api/data/:data/records/:n/pictures/:picture',
    { data, n: record, picture },
    { compat: encoding.compat, model_max_length: limit },
  );
