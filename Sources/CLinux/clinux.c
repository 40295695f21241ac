// Header only; a C target needs one translation unit.
#include "clinux.h"
