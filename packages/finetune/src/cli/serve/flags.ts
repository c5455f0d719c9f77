/** The flags of `minicpm-finetune serve`. */
import { CONFIG_FLAGS, DEVICE, type FlagTable, flagsOf } from '@minicpm-finetune/run';
import { MODEL_FLAGS } from '../chat/flags.js';

const MODEL = {
  model: { ...MODEL_FLAGS.model, help: { en: 'Checkpoint to serve.', zh: '要提供服务的检查点。' } },
  cache_dir: CONFIG_FLAGS.model.cache_dir,
  served_model_name: {
    kind: 'string',
    default: null,
    placeholder: 'name',
    help: {
      en: "Name of the model for clients; unless given, that of the checkpoint's folder.",
      zh: '客户端看到的模型名；默认为检查点的目录名。',
    },
  },
  adapter: {
    kind: 'strings',
    default: [],
    placeholder: 'name=dir',
    help: {
      en: 'Adapter folder and the model name it answers under. Repeat the flag for several; the base is in memory once.',
      zh: '适配器目录及其对外的模型名。可重复给出多个；基座模型在内存中只有一份。',
    },
  },
  adapter_root: {
    kind: 'strings',
    default: [],
    placeholder: 'dir',
    help: {
      en: 'Folder below which clients may load adapters while the server runs (POST /v1/load_lora_adapter); none unless given. Repeat the flag for several.',
      zh: '允许客户端在运行期间加载其下适配器的目录（POST /v1/load_lora_adapter）；默认不允许。可重复给出多个。',
    },
  },
  dtype: MODEL_FLAGS.dtype,
  load_in_8bit: MODEL_FLAGS.load_in_8bit,
  ...DEVICE,
} as const satisfies FlagTable;

const SERVER = {
  host: {
    kind: 'string',
    default: '127.0.0.1',
    placeholder: 'address',
    help: {
      en: 'Address to listen on. Other machines reach the server under any but the default, which takes an API key.',
      zh: '监听的地址。默认值只有本机可访问；其他地址可被别的机器访问，因此需要 API 密钥。',
    },
  },
  port: {
    kind: 'integer',
    min: 0,
    max: 65535,
    default: 8000,
    help: { en: 'Port to listen on; 0: any free one.', zh: '监听的端口；0 表示任意空闲端口。' },
  },
  api_key: {
    kind: 'string',
    default: null,
    placeholder: 'key',
    help: {
      en: 'Key that clients have to send. Better in the variable MINICPM_API_KEY: other users of the machine see flags.',
      zh: '客户端必须发送的密钥。最好用环境变量 MINICPM_API_KEY 给出：本机的其他用户能看到命令行参数。',
    },
  },
  allowed_host: {
    kind: 'strings',
    default: [],
    placeholder: 'host',
    help: {
      en: 'Name under which clients reach the server, besides localhost; may be given several times.',
      zh: '除 localhost 外客户端访问服务器所用的主机名；可以给出多次。',
    },
  },
  cors: {
    kind: 'strings',
    default: [],
    placeholder: 'origin',
    help: {
      en: 'Origin of a web page that may ask from a browser, such as https://example.com; may be given several times.',
      zh: '允许在浏览器中发出请求的网页来源，例如 https://example.com；可以给出多次。',
    },
  },
  json: {
    kind: 'boolean',
    default: false,
    help: {
      en: 'Print one line of JSON when the port is open and one when the model is ready.',
      zh: '端口打开时和模型就绪时各打印一行 JSON。',
    },
  },
  exit_with_parent: {
    kind: 'boolean',
    default: false,
    help: {
      en: 'End when standard input ends, as it does with the program that started this one.',
      zh: '标准输入结束时退出，即随启动它的程序一同结束。',
    },
  },
} as const satisfies FlagTable;

const LIMITS = {
  max_num_seqs: {
    kind: 'integer',
    min: 1,
    max: 256,
    default: 8,
    help: { en: 'Answers that are generated at the same time.', zh: '同时生成的回答数。' },
  },
  max_queue: {
    kind: 'integer',
    min: 0,
    default: 64,
    help: {
      en: 'Requests that may wait; further ones are refused with status 429.',
      zh: '允许等待的请求数；超出的请求以状态码 429 拒绝。',
    },
  },
  max_tokens: {
    kind: 'integer',
    min: 1,
    default: 4096,
    help: { en: 'Longest answer in tokens.', zh: '回答的最大长度（词元数）。' },
  },
  timeout: {
    kind: 'number',
    above: 0,
    max: 1_000_000,
    default: 600,
    help: {
      en: 'Seconds that a request may take, from its arrival to the end of its answer.',
      zh: '一个请求从到达到回答结束最多可用的秒数。',
    },
  },
  cache_memory: {
    kind: 'bytes',
    min: 0,
    default: 512 * 2 ** 20,
    help: {
      en: 'Memory kept by each model for pictures and for beginnings of conversations that come again, each.',
      zh: '每个模型为再次出现的图片和对话开头分别保留的内存。',
    },
  },
} as const satisfies FlagTable;

const PICTURES = {
  max_images: {
    kind: 'integer',
    min: 0,
    default: 20,
    help: { en: 'Most pictures and videos of a request.', zh: '一个请求最多包含的图片和视频数。' },
  },
  max_image_pixels: CONFIG_FLAGS.data.max_image_pixels,
  video_timeout: {
    kind: 'number',
    above: 0,
    default: 30,
    help: {
      en: 'Most seconds that the videos of a request take to be read; after that, their programs are killed and the request is refused.',
      zh: '读取一个请求中的视频最多用时（秒）；超时后结束解码程序并拒绝该请求。',
    },
  },
  allow_image_host: {
    kind: 'strings',
    default: [],
    placeholder: 'host',
    help: {
      en: 'Host whose pictures the server fetches when a request names them by http(s); none unless given.',
      zh: '请求以 http(s) 地址给出图片时，允许服务器从哪个主机获取；默认都不允许。',
    },
  },
  media_path: {
    kind: 'string',
    default: null,
    placeholder: 'dir',
    help: {
      en: 'Folder below which requests may name pictures by file://; none unless given.',
      zh: '允许请求以 file:// 给出其下图片的目录；默认不允许。',
    },
  },
} as const satisfies FlagTable;

export const SERVE_FLAGS = flagsOf({ model: MODEL, server: SERVER, limits: LIMITS, pictures: PICTURES });
