//! Intune custom compliance: a discovery script that prints one JSON object, and the rules that judge it.

use crate::canonical;
use crate::error::Result;
use serde_json::{Value, json};

/// Settings of the script's object: name, type, operator, what it must be, title, description.
const SETTINGS: [(&str, &str, &str, &str, &str, &str); 3] = [
    (
        "HotgraftOpenVulnerabilities",
        "Int64",
        "IsEquals",
        "0",
        "Security fixes are missing in memory",
        "Programs that are running do not have all security fixes. {ActualValue} are open.",
    ),
    (
        "HotgraftRestartPending",
        "Boolean",
        "IsEquals",
        "false",
        "A restart is pending",
        "An update is installed, but older programs are still running. Restart them, or the device.",
    ),
    (
        "HotgraftAction",
        "String",
        "IsEquals",
        "none",
        "The device has something to do",
        "The next step for this device is: {ActualValue}.",
    ),
];

/// The rules.
///
/// # Errors
/// None for documents of ours.
pub fn rules(more_info: &str) -> Result<Vec<u8>> {
    let rules: Vec<Value> = SETTINGS
        .iter()
        .map(|(name, kind, operator, operand, title, description)| {
            let operand: Value = match *kind {
                "Int64" => operand.parse::<i64>().map(Value::from).unwrap_or_default(),
                "Boolean" => (*operand == "true").into(),
                _ => (*operand).into(),
            };
            json!({
                "SettingName": name,
                "Operator": operator,
                "DataType": kind,
                "Operand": operand,
                "MoreInfoUrl": more_info,
                "RemediationStrings": [{ "Language": "en_US", "Title": title, "Description": description }],
            })
        })
        .collect();
    canonical::pretty(&json!({ "Rules": rules }))
}

/// The script. It reads what memory holds, lets hotgraft judge it, and prints the settings that the rules name; if anything
/// fails, it says that everything is open, because nothing is known.
pub fn script(images: &[&str]) -> Vec<u8> {
    let quoted: Vec<String> = images.iter().map(|image| format!("'{}'", image.replace('\'', "''"))).collect();
    format!(
        "# Discovery script for Intune custom compliance. Runs as the system, prints one JSON object.\r\n\
         $ErrorActionPreference = 'Stop'\r\n\
         $state = Join-Path $env:ProgramData 'hotgraft'\r\n\
         $program = Join-Path $env:ProgramFiles 'hotgraft\\hotgraft.exe'\r\n\
         $images = @({})\r\n\
         try {{\r\n    \
             $looked = foreach ($image in $images) {{\r\n        \
                 $document = & $program status --image $image --format json -q | Out-String | ConvertFrom-Json\r\n        \
                 @{{ image = $image; document = $document }}\r\n    \
             }}\r\n    \
             $disk = foreach ($file in Get-Content (Join-Path $state 'images.txt')) {{\r\n        \
                 @{{ name = Split-Path $file -Leaf; sha256 = (Get-FileHash $file -Algorithm SHA256).Hash.ToLowerInvariant() }}\r\n    \
             }}\r\n    \
             $machine = @{{ schema = 'hotgraft.machine/1'; machine = $env:COMPUTERNAME; disk = @($disk); status = @($looked) }}\r\n    \
             $file = Join-Path $state 'machine.json'\r\n    \
             [IO.File]::WriteAllText($file, (ConvertTo-Json $machine -Depth 32))\r\n    \
             $plan = & $program release plan (Join-Path $state 'catalog') --root (Join-Path $state 'root.json') --machine $file --format json -q | Out-String | ConvertFrom-Json\r\n    \
             if ($LASTEXITCODE -ne 0) {{ throw 'the catalog is not to be trusted' }}\r\n    \
             $one = $plan.plans[0]\r\n    \
             $answer = @{{ HotgraftOpenVulnerabilities = @($one.open).Count; HotgraftRestartPending = ($one.action -eq 'finish_restart'); HotgraftAction = $one.action }}\r\n\
         }} catch {{\r\n    \
             $answer = @{{ HotgraftOpenVulnerabilities = 999; HotgraftRestartPending = $true; HotgraftAction = 'unknown' }}\r\n\
         }}\r\n\
         return $answer | ConvertTo-Json -Compress\r\n",
        quoted.join(", ")
    )
    .into_bytes()
}
