// Declared in names.h.
#pragma once
#include "../names.h"
